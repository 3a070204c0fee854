-- The directory in Redis, in one hash slot: a claim on a shared server looks beyond its tenant.
-- KEYS[1] is what all keys begin with. A session is called `<tenant>/<owner> <id>` (`k`), none of which
-- contains `/` or a blank; among one user's it is called `<owner> <id>`, which sorts as owner and id do.
--   entry:k     hash: the entry, texts all of it, '' for none
--   members:k   hash: user -> `<role> <since>`
--   taken:<domain> <id>   k, on servers that are not of one's own
--   pending     sorted by `updated`: the k that nobody confirmed
--   due         sorted by when they are to end by themselves; later, while somebody sees to that
--   marks:<tenant>/<user>   hash: the name of a request -> what it came to, as JSON: digest, turn, message
--   marked:<tenant>/<user>  those names, sorted by when they were given
--   version     of all this: 2
--   view:<tenant>/<user>:…  what that user sees: started, updated (by time), ids (`<id> <owner>`),
--               names (`<name as compared>\0<owner> <id>`); and of one's own: used, records (by time).
--               What is terminated stands in started, updated and records only.
local P = KEYS[1]
local call = redis.call
local MAX = 9007199254740991
local FIELDS = { 'name', 'status', 'reason', 'server', 'state', 'exclusive', 'claims', 'ephemeral', 'created',
  'updated', 'last_used', 'ended', 'epoch', 'fence', 'note', 'started' }
-- And, not for the gateway: domain, folded; ends, unused_for (its lifetime)

local function key(tenant, owner, id) return tenant .. '/' .. owner .. ' ' .. id end

local function parts(k) return string.match(k, '^([^/]+)/([^ ]+) (.+)$') end

local function view(tenant, user) return P .. 'view:' .. tenant .. '/' .. user .. ':' end

local function later(a, b) if tonumber(a) >= tonumber(b) then return a else return b end end

local function load(k)
  local flat = call('HGETALL', P .. 'entry:' .. k)
  if #flat == 0 then return nil end
  local e = {}
  for i = 1, #flat, 2 do e[flat[i]] = flat[i + 1] end
  return e
end

local function alive(k)
  local status = call('HGET', P .. 'entry:' .. k, 'status')
  return status and status ~= 'terminated'
end

local function load_alive(k)
  local e = load(k)
  if e and e.status ~= 'terminated' then return e end
end

-- As the gateway reads it: key, fields, members.
local function pack(k)
  local tenant, owner, id = parts(k)
  local out = call('HMGET', P .. 'entry:' .. k, unpack(FIELDS))
  -- An entry that an earlier Jetway makes has not all of them.
  for i = 1, #FIELDS do out[i] = out[i] or '' end
  local flat = call('HGETALL', P .. 'members:' .. k)
  local lines = {}
  for i = 1, #flat, 2 do lines[#lines + 1] = flat[i] .. ' ' .. string.match(flat[i + 1], '^%a+') end
  return { tenant, owner, id, out, table.concat(lines, '\n') }
end

local function show(k, e, user)
  local tenant, owner, id = parts(k)
  local v, w = view(tenant, user), owner .. ' ' .. id
  call('ZADD', v .. 'started', e.created, w)
  call('ZADD', v .. 'updated', e.updated, w)
  if e.status == 'terminated' then
    call('ZADD', v .. 'records', e.ended, w)
    return
  end
  call('ZADD', v .. 'ids', 0, id .. ' ' .. owner)
  if e.folded ~= '' then call('ZADD', v .. 'names', 0, e.folded .. '\0' .. w) end
  if user == owner then call('ZADD', v .. 'used', e.last_used, w) end
end

local function hide(k, e, user)
  local tenant, owner, id = parts(k)
  local v, w = view(tenant, user), owner .. ' ' .. id
  for _, list in ipairs({ 'started', 'updated', 'used', 'records' }) do call('ZREM', v .. list, w) end
  call('ZREM', v .. 'ids', id .. ' ' .. owner)
  if e.folded ~= '' then call('ZREM', v .. 'names', e.folded .. '\0' .. w) end
end

local function users(k)
  local all = call('HKEYS', P .. 'members:' .. k)
  local _, owner = parts(k)
  all[#all + 1] = owner
  return all
end

-- Notes when a session ends by itself: when its time is over, or it was not used for long.
local function set_due(k, e)
  local ends, unused_for = e.ends or '', e.unused_for or ''
  if ends == '' and unused_for == '' then
    call('ZREM', P .. 'due', k)
    return
  end
  local at = ends ~= '' and tonumber(ends) or MAX
  if unused_for ~= '' then at = math.min(at, tonumber(e.last_used) + tonumber(unused_for)) end
  call('ZADD', P .. 'due', string.format('%.0f', at), k)
end

local function taken(k, domain)
  local _, _, id = parts(k)
  local holder = domain ~= '' and call('GET', P .. 'taken:' .. domain .. ' ' .. id)
  return holder and holder ~= k
end

-- Makes `old` into `new`; either may be nil.
local function save(k, old, new)
  local _, _, id = parts(k)
  local all = users(k)
  if old then
    for _, user in ipairs(all) do hide(k, old, user) end
    if old.domain ~= '' then call('DEL', P .. 'taken:' .. old.domain .. ' ' .. id) end
    call('ZREM', P .. 'pending', k)
    if not new or new.status == 'terminated' then call('ZREM', P .. 'due', k) end
  end
  if not new then
    call('DEL', P .. 'entry:' .. k, P .. 'members:' .. k)
    return
  end
  local flat = {}
  for field, value in pairs(new) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  call('HSET', P .. 'entry:' .. k, unpack(flat))
  for _, user in ipairs(all) do show(k, new, user) end
  if new.domain ~= '' then call('SET', P .. 'taken:' .. new.domain .. ' ' .. id, k) end
  if new.claims ~= '0' then call('ZADD', P .. 'pending', new.updated, k) end
end

local function copy(e)
  local c = {}
  for field, value in pairs(e) do c[field] = value end
  return c
end

-- The user's own; else the one that was shared first: a later one must not take its place.
local function find(tenant, user, id)
  local own = key(tenant, user, id)
  if alive(own) then return own end
  local best, first
  for _, m in ipairs(call('ZRANGEBYLEX', view(tenant, user) .. 'ids', '[' .. id .. ' ', '(' .. id .. '!')) do
    local k = key(tenant, string.sub(m, #id + 2), id)
    local since = tonumber(string.match(call('HGET', P .. 'members:' .. k, user), '%d+$'))
    if not first or since < first then best, first = k, since end
  end
  return best
end
