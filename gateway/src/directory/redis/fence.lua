-- ARGV: tenant, owner, id, fence
local k = key(ARGV[1], ARGV[2], ARGV[3])
local e = load_alive(k)
if not e then return { 'none' } end
if tonumber(ARGV[4]) < tonumber(e.fence) then return { 'superseded', e.fence } end
call('HSET', P .. 'entry:' .. k, 'fence', ARGV[4])
return { 'ok' }
