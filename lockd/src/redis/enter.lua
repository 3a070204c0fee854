-- KEYS: fence, quarantine, lease, line
-- ARGV: ticket, who, ttl ms, max waiters, floor, offer ms, line's expiry ms
-- → {'held', fence, in line} | {'waiting' | 'full', ahead, holder, ms left} | {'unseeded'}
local found = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])
local counter, quarantine, lease = tonumber(found[1] or nil), found[2], found[3]
if not counter then return { 'unseeded' } end
raise(KEYS[1], counter, tonumber(ARGV[5]))

local me, entry = ARGV[1], ARGV[1] .. ' ' .. ARGV[2]
local state, fence, ticket, who
local granted, head = false, nil
if lease then
  state, fence, ticket, who = parse(lease)
  if ticket == me and state == 'H' then
    -- The answer to an earlier command was lost.
    redis.call('PEXPIRE', KEYS[3], ARGV[3])
    return { 'held', fence, redis.call('LLEN', KEYS[4]) }
  end
  granted = ticket == me
  head = granted
elseif not quarantine then
  head = redis.call('LINDEX', KEYS[4], 0)
  -- Late for its offer, perhaps, but here before anybody else noticed.
  if head and ticket_of(head) ~= me then head = first(KEYS[4], me) end
  granted = not head or ticket_of(head) == me
end
if granted then
  if head then redis.call('LPOP', KEYS[4]) end
  fence = text(redis.call('INCR', KEYS[1]))
  redis.call('SET', KEYS[3], 'H ' .. fence .. ' ' .. entry, 'PX', ARGV[3])
  return { 'held', fence, head and redis.call('LLEN', KEYS[4]) or 0 }
end

if not lease and not quarantine then
  offer(KEYS[3], KEYS[4], head, ARGV[6])
  who = string.match(head, ' (%S+)$')
end
local ahead = redis.call('LPOS', KEYS[4], entry) or redis.call('LPOS', KEYS[4], '!' .. entry)
local left = redis.call('PTTL', (lease or not quarantine) and KEYS[3] or KEYS[2])
if not ahead then
  ahead = redis.call('LLEN', KEYS[4])
  if ahead >= tonumber(ARGV[4]) then return { 'full', ahead, who or '', left } end
  redis.call('RPUSH', KEYS[4], entry)
  if state == 'H' then tell(ticket, 'wanted') end
end
redis.call('PEXPIRE', KEYS[4], ARGV[7])
return { 'waiting', ahead, who or '', left }
