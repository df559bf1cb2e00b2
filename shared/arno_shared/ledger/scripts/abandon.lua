-- Nothing was heard of a job for long: what is not done of it, nobody does any more. Returns its state, or false when
-- something was heard of it after all.
local due = redis.call('ZSCORE', LIVE, JOB_ID)
if not due or tonumber(due) > now() then return false end
even_when_full()
local state = get('state')
if not state then
  redis.call('ZREM', LIVE, JOB_ID)
  return false
end
if state == 'running' or state == 'paused' then
  state = 'incomplete'
  finish(state)
end
age()
return state
