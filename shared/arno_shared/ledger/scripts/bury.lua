-- Gives up a whole chunk without a commit. KEYS[7]: dead letters.
-- ARGV: index, attempt, images, letter, max letters, retention_s. Returns 0 when it was given up or committed before.
local index, attempt, images = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local field = index .. '.' .. attempt
local committed = (attempt == 1 and redis.call('GETBIT', COMMITTED, index) == 1)
  or (attempt > 1 and redis.call('SISMEMBER', RETRIED, field) == 1)
if committed or redis.call('HSETNX', BURIED, field, images) == 0 then return 0 end
if attempt == 1 then
  count('buried', 1)
  if redis.call('HGET', JOB, 'origin') == 'message' then
    count('chunks', 1)
    count('images', images)
  end
else
  count('put_off', -images)
  redis.call('HDEL', PUT_OFF, field)
end
count('dead', images)
redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[5], '*', 'letter', ARGV[4])
settle(ARGV[6])
return 1
