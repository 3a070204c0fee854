-- ARGV: tenant, owner, id
local k = key(ARGV[1], ARGV[2], ARGV[3])
local old = load_alive(k)
if not old or old.claims == '0' then return 0 end
if old.claims == '1' then
  save(k, old, nil)
  return 1
end
call('HINCRBY', P .. 'entry:' .. k, 'claims', -1)
return 0
