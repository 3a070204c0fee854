-- ARGV: at, when to give out again what is still there then, how many at most
local found = call('ZRANGEBYSCORE', P .. 'due', '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
local out = {}
for _, k in ipairs(found) do
  if alive(k) then
    call('ZADD', P .. 'due', ARGV[2], k)
    out[#out + 1] = pack(k)
  else
    call('ZREM', P .. 'due', k)
  end
end
return out
