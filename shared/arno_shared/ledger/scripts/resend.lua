-- Somebody says that a job without a manifest is to go on, whatever became of it, with what is kept of it here. Returns
-- 'resent', 'done' when nothing is left to do, or false when there is no such job or nothing of it is kept.
even_when_full()
local state = get('state')
if state == 'done' then return 'done' end
local unsent = redis.call('HEXISTS', JOB, 'message') == 1
if not state or not (unsent or redis.call('HLEN', PUT_OFF) > 0) then return false end
wake()
if unsent then redis.call('ZADD', DELAYED, now(), JOB_ID .. '/0.1') end
release()
return 'resent'
