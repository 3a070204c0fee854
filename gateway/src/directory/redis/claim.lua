-- ARGV: tenant, owner, id, domain, server, state, exclusive, ephemeral, at, most sessions, unused_for
local tenant, owner, id, domain, at = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[9]
local k = key(tenant, owner, id)
local old = load(k)
if old and old.status ~= 'terminated' then
  if old.claims ~= '0' then
    local new = copy(old)
    new.claims, new.updated = tostring(tonumber(old.claims) + 1), later(old.updated, at)
    save(k, old, new)
  end
  return { 'known', pack(k) }
end
if taken(k, domain) then return { 'taken' } end
if call('ZCARD', view(tenant, owner) .. 'used') >= tonumber(ARGV[10]) then return { 'full' } end
local new = {
  name = '', folded = '', status = 'pending', reason = '', server = ARGV[5], state = ARGV[6],
  exclusive = ARGV[7], domain = domain, ephemeral = ARGV[8], claims = '1', created = at, updated = at,
  last_used = at, ended = '', epoch = tostring((old and tonumber(old.epoch) or 0) + 1),
  fence = old and old.fence or '0', note = '', started = '', ends = '', unused_for = ARGV[11],
}
save(k, old, new)
set_due(k, new)
return { 'fresh', pack(k) }
