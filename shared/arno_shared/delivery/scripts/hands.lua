-- Read before `give_back`, `sweep` and `bury`. KEYS: unacked, its index. ARGV[1] of the first two: key prefix.

-- Called first, before anything is changed. A server whose memory is full refuses what may take more, until a script has
-- written something else. And a user that may not do the one or the other is refused here, where nothing is half done.
local function may_take_out()
  redis.call('ZREM', KEYS[2], '')
  redis.call('HDEL', KEYS[1], '')
end

-- The message first: a message without an index entry would lie there for ever, an entry without a message is swept.
local function take_out(tag)
  redis.call('HDEL', KEYS[1], tag)
  redis.call('ZREM', KEYS[2], tag)
end

-- Takes a message out of a worker's hands and puts it where it is claimed next, or at the far end of the queue.
-- `queue`: another one than it came from. Returns whether it was in anybody's hands.
local function give_back(tag, where, queue)
  local record = redis.call('HGET', KEYS[1], tag)
  if not record then
    redis.call('ZREM', KEYS[2], tag)
    return false
  end
  -- As it came: decoding and encoding would change what it holds.
  local raw, own = string.match(record, '^%[(.*),%s*"[^"]*",%s*("[^"]*")%]$')
  if not raw then
    -- Not one of Arno's or kombu's: it stays where it is, and keeps nobody from the others.
    redis.call('ZREM', KEYS[2], tag)
    return false
  end
  redis.call(where == 'next' and 'RPUSH' or 'LPUSH', ARGV[1] .. (queue or cjson.decode('[' .. own .. ']')[1]), raw)
  take_out(tag)
  return true
end
