-- ARGV: tenant, owner, id, epoch, domain, server, state, exclusive, at
local k = key(ARGV[1], ARGV[2], ARGV[3])
local old = load_alive(k)
if not old then return { 'none' } end
if old.epoch ~= ARGV[4] then return { 'stale', old.epoch } end
if taken(k, ARGV[5]) then return { 'taken' } end
local new = copy(old)
new.domain, new.server, new.state, new.exclusive = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
new.epoch, new.updated = tostring(tonumber(old.epoch) + 1), later(old.updated, ARGV[9])
save(k, old, new)
return { 'ok', new.epoch }
