-- ARGV: tenant, user, 'latest' or 'text', id, name, how many at most
local tenant, user, what, id, name, most = unpack(ARGV)
local v = view(tenant, user)

local function packed(names)
  local out = {}
  for _, w in ipairs(names) do out[#out + 1] = pack(tenant .. '/' .. w) end
  return out
end

if what == 'latest' then return packed(call('ZREVRANGE', v .. 'used', 0, 0)) end
if id ~= '' then
  local own = key(tenant, user, id)
  -- Its own record comes after what is alive, and before what is called like it.
  local exact = find(tenant, user, id) or (call('EXISTS', P .. 'entry:' .. own) == 1 and own)
  if exact then return { pack(exact) } end
end
local named = call('ZRANGEBYLEX', v .. 'names', '[' .. name .. '\0', '(' .. name .. '\1', 'LIMIT', 0, most)
for i, m in ipairs(named) do named[i] = string.sub(m, #name + 2) end
if #named > 0 then return packed(named) end
if id == '' then return {} end
-- `~` comes after all that ids are made of.
local begun = call('ZRANGEBYLEX', v .. 'ids', '[' .. id, '(' .. id .. '~', 'LIMIT', 0, most)
for i, m in ipairs(begun) do begun[i] = string.gsub(m, '^([^ ]+) (.+)$', '%2 %1') end
return packed(begun)
