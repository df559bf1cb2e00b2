-- A running job stands still. Returns the job's state, or false when there is no such job.
even_when_full()
local state = get('state')
if state == 'running' then
  redis.call('HSET', JOB, 'state', 'paused')
  live()
  return 'paused'
end
return state
