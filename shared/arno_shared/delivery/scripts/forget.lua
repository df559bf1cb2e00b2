-- Forgets what kombu keeps for ever of those who were killed.
-- KEYS: who listens to remote control, who waits for answers to it, workers. ARGV: seconds to keep the second for.
for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local worker = string.match(member, '([^\22]*)%.celery%.pidbox$')
  if worker and not redis.call('ZSCORE', KEYS[3], worker) then redis.call('SREM', KEYS[1], member) end
end
-- Of those it is not known who is there; whoever asks again is a member again.
if redis.call('TTL', KEYS[2]) == -1 then redis.call('EXPIRE', KEYS[2], ARGV[1]) end
