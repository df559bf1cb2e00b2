-- Claims the next message: from its list into the hash of messages in hand, under a lease, in one step. The first list
-- that has any is taken from; a message is always in its list or in the hash.
-- KEYS: unacked, its index, dead letters, then the lists in the order in which they are to be drained.
-- ARGV: worker, max letters, then for each list the lane and the queue that its messages go back to.
-- Returns the queue, the claim's tag and the message; false when all lists are empty; nothing at all when it is to be
-- called again.
local UNACKED, INDEX, DEAD = KEYS[1], KEYS[2], KEYS[3]
-- Entries that are filed in one step: nobody else is served meanwhile.
local MAX_BURIED = 1000
local t = redis.call('TIME')

-- Whatever lies in a list: only what has a tag, as kombu gives one, can be handed to Celery.
local function is_message(raw)
  local ok, message = pcall(cjson.decode, raw)
  local properties = ok and type(message) == 'table' and message.properties
  local tag = type(properties) == 'table' and properties.delivery_tag
  return type(tag) == 'string' and tag ~= ''
end

-- A tag of this claim's own. By the message's, whoever had it before, and gave it back or was thought dead, could
-- still acknowledge what another holds now; and of two messages with the same tag, one would overwrite the other.
local function new_tag()
  local tag = ARGV[1] .. '/' .. t[1] .. '.' .. t[2]
  while redis.call('HEXISTS', UNACKED, tag) == 1 do tag = tag .. '+' end
  return tag
end

local function bury(list, raw, lane)
  local readable = string.gsub(raw, '[^\9\10\13\32-\126]', function(c) return string.format('\\x%02x', string.byte(c)) end)
  local letter = cjson.encode({
    kind = 'message', code = 'undecodable', reason = 'what lay in the queue is not a Celery message', raw = readable,
    lane = lane, worker = ARGV[1], at = t[1] + t[2] / 1000000,
  })
  redis.call('XADD', DEAD, 'MAXLEN', '~', ARGV[2], '*', 'letter', letter)
  redis.call('RPOP', list)
end

local buried = 0
for i = 4, #KEYS do
  local list, lane, queue = KEYS[i], ARGV[2 * i - 5], ARGV[2 * i - 4]
  local raw = redis.call('LINDEX', list, -1)
  while raw do
    -- A server whose memory is full refuses what may take more, until a script has written something else.
    redis.call('ZREM', INDEX, '')
    if is_message(raw) then
      local tag = new_tag()
      -- None, to be refused here and not below: a user that may not take from lists would double the message each time.
      redis.call('RPOP', list, 0)
      -- First: an entry of the index without a message is swept, a message without an entry would lie there for ever.
      redis.call('ZADD', INDEX, t[1] + t[2] / 1000000, tag)
      redis.call('HSET', UNACKED, tag, '[' .. raw .. ', "", ' .. cjson.encode(queue) .. ']')
      -- Last: an error before this would double the message, and never lose it.
      redis.call('RPOP', list)
      return {queue, tag, raw}
    end
    if buried == MAX_BURIED then return {} end
    bury(list, raw, lane)
    buried = buried + 1
    raw = redis.call('LINDEX', list, -1)
  end
end
return false
