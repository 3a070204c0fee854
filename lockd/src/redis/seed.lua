-- KEYS: fence, quarantine, run
-- ARGV: floor, run id, ttl ms, settle ms, birth
-- → how long nothing is granted from now on, in ms
local counter, floor = tonumber(redis.call('GET', KEYS[1]) or nil), tonumber(ARGV[1])
if counter and redis.call('GET', KEYS[3]) == ARGV[2] then
  raise(KEYS[1], counter, floor)
  return 0
end
local pause = tonumber(ARGV[counter and 4 or 3])
if redis.call('PTTL', KEYS[2]) < pause then redis.call('SET', KEYS[2], '1', 'PX', pause) end
-- What was given last may be forgotten in either case.
redis.call('SET', KEYS[1], next_epoch(math.max(counter or 0, floor, tonumber(ARGV[5]))))
redis.call('SET', KEYS[3], ARGV[2])
return pause
