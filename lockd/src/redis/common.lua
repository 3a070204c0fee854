-- What the scripts share; each is this and its own file. `table.rs` says what they do and why.
--
-- fence       the last fence given; without it this Redis has lost its memory
-- quarantine  there while nothing is granted
-- run         which run of Redis was seen last
-- lease       "H <fence> <ticket> <who>" held, "O 0 <ticket> <who>" offered; it ends by its expiry
-- line        "<ticket> <who>" first to last, with "!" before one that has been offered the lease
--
-- No script reads the clock, and all keys of one call carry one hash tag.

local EPOCH = 2097152

local function text(fence) return string.format('%.0f', fence) end

-- The fence's epoch is over: the next one begins.
local function next_epoch(fence) return text((math.floor(fence / EPOCH) + 1) * EPOCH) end

-- Above `floor` from now on. A counter below it has missed some fences, who knows how many.
local function raise(key, counter, floor)
  if counter < floor then redis.call('SET', key, next_epoch(floor)) end
end

local function parse(lease) return string.match(lease, '^(%u) (%d+) (%S+) (%S+)$') end

local function ticket_of(entry) return string.match(entry, '^!?(%S+)') end

-- Tells the process of a ticket. Where publishing is not allowed, its timers find out.
local function tell(ticket, what, ms)
  local node, seq = string.match(ticket, '^(%x+)%.(%d+)')
  redis.pcall('PUBLISH', 'jetway:lock:node:' .. node, what .. ' ' .. seq .. ' ' .. (ms or 0))
end

-- The first in line, once those whose offer lapsed are gone with all that their nodes have in line; of the
-- node that calls, which is alive, only the one.
local function first(line, caller)
  local alive = string.match(caller, '^%x+')
  local head = redis.call('LINDEX', line, 0)
  while head and string.sub(head, 1, 1) == '!' do
    redis.call('LPOP', line)
    local node = string.match(head, '^!(%x+)')
    if node ~= alive then
      for _, entry in ipairs(redis.call('LRANGE', line, 0, -1)) do
        if string.match(entry, '^!?(%x+)') == node then redis.call('LREM', line, 1, entry) end
      end
    end
    head = redis.call('LINDEX', line, 0)
  end
  return head
end

local function offer(lease, line, head, ms)
  redis.call('SET', lease, 'O 0 ' .. head, 'PX', ms)
  redis.call('LSET', line, 0, '!' .. head)
  tell(head, 'offered')
  local second = redis.call('LINDEX', line, 1)
  if second then tell(second, 'next', ms) end
end
