-- KEYS: fence, quarantine, then lease and line of each
-- ARGV: ttl ms, then ticket, who and fence of each
-- → 0 gone, 1 kept, 2 kept and wanted, for each; {'unseeded'}
local found = redis.call('MGET', KEYS[1], KEYS[2])
local counter, quarantine = tonumber(found[1] or nil), found[2]
if not counter then return { 'unseeded' } end
local answers, highest = {}, 0
for i = 1, (#KEYS - 2) / 2 do
  local lease, line = KEYS[2 * i + 1], KEYS[2 * i + 2]
  local ticket, who, fence = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  local value = redis.call('GET', lease)
  local kept
  if value then
    local state, _, holder = parse(value)
    kept = state == 'H' and holder == ticket
  else
    -- Reinstated: the holder knows that its time is not up, and nobody can have had it since.
    kept = quarantine
  end
  if kept then
    redis.call('SET', lease, 'H ' .. fence .. ' ' .. ticket .. ' ' .. who, 'PX', ARGV[1])
    answers[i] = redis.call('LLEN', line) > 0 and 2 or 1
  else
    answers[i] = 0
  end
  -- Whoever has a fence tells it, so that it is not given again.
  highest = math.max(highest, tonumber(fence))
end
raise(KEYS[1], counter, highest)
return answers
