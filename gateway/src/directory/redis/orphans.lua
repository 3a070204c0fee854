-- ARGV: before, how many at most
local found = call('ZRANGEBYSCORE', P .. 'pending', '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, k in ipairs(found) do save(k, load(k), nil) end
return #found
