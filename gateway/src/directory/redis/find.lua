-- ARGV: tenant, user, id
local k = find(ARGV[1], ARGV[2], ARGV[3])
if k then return { pack(k) } else return {} end
