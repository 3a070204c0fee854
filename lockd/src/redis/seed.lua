-- KEYS: fence, quarantine, run
-- ARGV: floor, run id, ttl ms, settle ms, birth
local counter = tonumber(redis.call('GET', KEYS[1]) or nil)
local pause = 0
if not counter then
  pause = tonumber(ARGV[3])
  redis.call('SET', KEYS[1], next_epoch(math.max(tonumber(ARGV[1]), tonumber(ARGV[5]))))
else
  if redis.call('GET', KEYS[3]) ~= ARGV[2] then pause = tonumber(ARGV[4]) end
  raise(KEYS[1], counter, tonumber(ARGV[1]))
end
redis.call('SET', KEYS[3], ARGV[2])
if pause > 0 and pause > redis.call('PTTL', KEYS[2]) then redis.call('SET', KEYS[2], '1', 'PX', pause) end
return pause
