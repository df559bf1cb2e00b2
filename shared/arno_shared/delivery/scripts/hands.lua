-- Read before `give_back` and `sweep`. KEYS: unacked, its index. ARGV[1]: key prefix.

-- Takes a message out of a worker's hands and puts it where it is claimed next, or at the far end of the queue.
-- `queue`: another one than it came from. Returns whether it was in anybody's hands.
local function give_back(tag, where, queue)
  -- First: it may be done when memory is full, and then so may the rest.
  redis.call('ZREM', KEYS[2], tag)
  local record = redis.call('HGET', KEYS[1], tag)
  if not record then return false end
  -- As it came: decoding and encoding would change what it holds.
  local raw, own = string.match(record, '^%[(.*),%s*"[^"]*",%s*("[^"]*")%]$')
  -- Not one of Arno's or kombu's: it stays where it is, and keeps nobody from the others.
  if not raw then return false end
  redis.call(where == 'next' and 'RPUSH' or 'LPUSH', ARGV[1] .. (queue or cjson.decode('[' .. own .. ']')[1]), raw)
  redis.call('HDEL', KEYS[1], tag)
  return true
end
