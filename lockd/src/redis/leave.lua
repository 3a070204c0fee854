-- KEYS: quarantine, lease, line
-- ARGV: ticket, who, offer ms
local found = redis.call('MGET', KEYS[1], KEYS[2])
local quarantine, lease = found[1], found[2]
local entry = ARGV[1] .. ' ' .. ARGV[2]
local state, ticket
if lease then
  local _
  state, _, ticket = parse(lease)
end
-- Who holds is not in line.
if not (state == 'H' and ticket == ARGV[1]) then
  if redis.call('LREM', KEYS[3], 1, entry) == 0 then redis.call('LREM', KEYS[3], 1, '!' .. entry) end
end
if ticket == ARGV[1] then
  redis.call('DEL', KEYS[2])
  local head = first(KEYS[3], ARGV[1])
  if head and not quarantine then offer(KEYS[2], KEYS[3], head, ARGV[3]) end
end
return 1
