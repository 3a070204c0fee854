-- ARGV: the version to come to, where the last step ended or '0'
-- Returns where the next step begins, '0' at the end; and the version that was found, if it is later than that.
local version = tonumber(call('GET', P .. 'version') or '1')
local known = tonumber(ARGV[1])
if version > known then return { '0', version } end
if version == known then return { '0' } end

-- The glob must not take the braces of the prefix for its own: they are none.
local step = call('SCAN', ARGV[2], 'MATCH', P .. 'entry:*', 'COUNT', 500)
for _, name in ipairs(step[2]) do
  local k = string.sub(name, #P + #'entry:' + 1)
  local e = load(k)
  if e and not e.started then
    e.started = e.status == 'pending' and '' or e.created
    -- So far both stood in the note of the face that made it, in minutes and hours.
    local read, note = pcall(cjson.decode, e.note or '')
    local config = read and type(note) == 'table' and note.config
    local function span(name, ms)
      local n = type(config) == 'table' and config[name]
      if type(n) ~= 'number' or n < 1 or e.status == 'terminated' then return nil end
      return math.floor(math.min(n, 1e9)) * ms
    end
    local timeout, unused = span('timeout_minutes', 60000), span('auto_delete_after_hours', 3600000)
    e.ends = timeout and string.format('%.0f', math.min(tonumber(e.created) + timeout, MAX)) or ''
    e.unused_for = unused and string.format('%.0f', unused) or ''
    call('HSET', P .. 'entry:' .. k, 'started', e.started, 'ends', e.ends, 'unused_for', e.unused_for)
    set_due(k, e)
  end
end
if step[1] == '0' then call('SET', P .. 'version', known) end
return { step[1] }
