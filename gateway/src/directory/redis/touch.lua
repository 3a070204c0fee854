-- ARGV: at, then tenant, owner, id of each
local at = ARGV[1]
for i = 2, #ARGV, 3 do
  local tenant, owner, id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local k, w = key(tenant, owner, id), owner .. ' ' .. id
  local e = load_alive(k)
  if e then
    local updated, used = later(e.updated, at), later(e.last_used, at)
    call('HSET', P .. 'entry:' .. k, 'updated', updated, 'last_used', used)
    for _, user in ipairs(users(k)) do call('ZADD', view(tenant, user) .. 'updated', updated, w) end
    call('ZADD', view(tenant, owner) .. 'used', used, w)
    if (e.unused_for or '') ~= '' then
      e.last_used = used
      set_due(k, e)
    end
    if e.claims ~= '0' then call('ZADD', P .. 'pending', updated, k) end
  end
end
return 1
