-- A chunk goes back unfinished, through no fault of its own. ARGV: index.attempt, or index.attempt/position.
if redis.call('HEXISTS', BEGUN, ARGV[1]) == 1 and redis.call('HINCRBY', BEGUN, ARGV[1], -1) <= 0 then
  redis.call('HDEL', BEGUN, ARGV[1])
end
