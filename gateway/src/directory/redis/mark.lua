-- ARGV: tenant, user, name, what, and what belongs to it
local of = ARGV[1] .. '/' .. ARGV[2]
local marks, times = P .. 'marks:' .. of, P .. 'marked:' .. of
local name, what = ARGV[3], ARGV[4]

if what == 'message' then
  local known = call('HGET', marks, name)
  if known then
    local mark = cjson.decode(known)
    mark[3] = ARGV[5]
    call('HSET', marks, name, cjson.encode(mark))
  end
  return {}
elseif what == 'remove' then
  call('HDEL', marks, name)
  call('ZREM', times, name)
  return {}
end

-- put: digest, turn, at, since when they are kept, for how long, the most
local function drop(names)
  for _, n in ipairs(names) do
    call('HDEL', marks, n)
    call('ZREM', times, n)
  end
end
drop(call('ZRANGEBYSCORE', times, '-inf', '(' .. ARGV[8]))
local known = call('HGET', marks, name)
if known then return cjson.decode(known) end
local excess = call('ZCARD', times) + 1 - tonumber(ARGV[10])
if excess > 0 then drop(call('ZRANGE', times, 0, excess - 1)) end
call('HSET', marks, name, cjson.encode({ ARGV[5], ARGV[6], '' }))
call('ZADD', times, ARGV[7], name)
call('PEXPIRE', marks, ARGV[9])
call('PEXPIRE', times, ARGV[9])
return {}
