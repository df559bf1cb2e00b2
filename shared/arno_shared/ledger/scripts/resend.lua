-- Somebody says that a job of one chunk is to go on, whatever became of it. Returns 'resent', 'done' when nothing is left
-- to do, or false when there is no such job or nothing of it is kept here.
even_when_full()
local state = get('state')
if state == 'done' then return 'done' end
if not state or redis.call('HEXISTS', JOB, 'message') == 0 then return false end
wake()
redis.call('ZADD', DELAYED, now(), JOB_ID .. '/0.1')
release()
return 'resent'
