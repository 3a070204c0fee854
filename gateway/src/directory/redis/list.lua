-- ARGV: tenant, user, status or '', 'started' or 'updated', 'asc' or 'desc', how many at most,
-- time and name after which to go on or '', how many to look at
-- Returns '1' at the end, else ''; the time and name that were looked at last; entries.
local tenant, user, status, sort, order, most, at, last, budget = unpack(ARGV)
local list = view(tenant, user) .. sort
local rising = order == 'asc'
most, budget = tonumber(most), tonumber(budget)

-- Lua's own comparison follows the server's locale.
local function after(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return (x > y) == rising end
  end
  return #a ~= #b and (#a > #b) == rising
end

local names, times = {}, {}
local function range(from, to, ...)
  local flat = rising and call('ZRANGEBYSCORE', list, from, to, 'WITHSCORES', ...)
    or call('ZREVRANGEBYSCORE', list, from, to, 'WITHSCORES', ...)
  for i = 1, #flat, 2 do
    if at == '' or flat[i + 1] ~= at or after(flat[i], last) then
      names[#names + 1] = flat[i]
      times[#times + 1] = flat[i + 1]
    end
  end
  return #flat / 2
end

local start = rising and '-inf' or '+inf'
if at ~= '' then
  range(at, at)
  start = '(' .. at
end
local ended = range(start, rising and '+inf' or '-inf', 'LIMIT', 0, budget) < budget

local out = {}
for i, w in ipairs(names) do
  if #out == most then
    ended = false
    break
  end
  local k = tenant .. '/' .. w
  if status == '' or call('HGET', P .. 'entry:' .. k, 'status') == status then out[#out + 1] = pack(k) end
  at, last = times[i], w
end
return { ended and '1' or '', at, last, out }
