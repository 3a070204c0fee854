-- ARGV: tenant, owner, id, at, what, and what belongs to it
local tenant, owner, id, at, what = unpack(ARGV, 1, 5)
local k = key(tenant, owner, id)
local members = P .. 'members:' .. k
local old = load_alive(k)
if not old then return 'none' end
local new = copy(old)
new.updated = later(old.updated, at)

if what == 'confirm' then
  new.claims, new.last_used = '0', later(old.last_used, at)
  if old.status == 'pending' and old.reason == '' then
    new.status = 'running'
    if (old.started or '') == '' then new.started = at end
  end
elseif what == 'status' then
  -- status, reason, '1' if it is over, most records
  new.status, new.reason = ARGV[6], ARGV[7]
  new.ended = ARGV[8] == '1' and at or ''
  if new.status == 'running' and (old.started or '') == '' then new.started = at end
  if new.status == 'terminated' then
    for _, user in ipairs(call('HKEYS', members)) do hide(k, old, user) end
    call('DEL', members)
    new.domain, new.claims = '', '0'
  end
elseif what == 'name' then
  new.name, new.folded = ARGV[6], ARGV[7]
elseif what == 'note' then
  -- note, when it ends, how long it may be unused
  new.note, new.ends, new.unused_for = ARGV[6], ARGV[7], ARGV[8]
elseif what == 'share' then
  -- most members, and users with their roles
  local count = call('HLEN', members)
  for i = 7, #ARGV, 2 do count = count + 1 - call('HEXISTS', members, ARGV[i]) end
  if count > tonumber(ARGV[6]) then return 'full' end
  for i = 7, #ARGV, 2 do
    -- Whoever was a member already stays one since then.
    local had = call('HGET', members, ARGV[i])
    local since = had and string.match(had, '%d+$') or at
    call('HSET', members, ARGV[i], ARGV[i + 1] .. ' ' .. since)
  end
elseif what == 'unshare' then
  if call('HDEL', members, ARGV[6]) == 0 then return 'none' end
  hide(k, old, ARGV[6])
end
save(k, old, new)
if what == 'note' then set_due(k, new) end

if new.status == 'terminated' then
  -- The oldest records make room.
  local records = view(tenant, owner) .. 'records'
  local excess = call('ZCARD', records) - tonumber(ARGV[9])
  if excess > 0 then
    for _, w in ipairs(call('ZRANGE', records, 0, excess - 1)) do
      local oldest = tenant .. '/' .. w
      save(oldest, load(oldest), nil)
    end
  end
end
return 'ok'
