-- ARGV: tenant, owner, id
local k = key(ARGV[1], ARGV[2], ARGV[3])
local old = load(k)
if not old then return 0 end
save(k, old, nil)
return 1
