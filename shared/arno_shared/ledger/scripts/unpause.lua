-- A paused job goes on. Returns the job's state, or false when there is no such job.
may_do_all()
local state = get('state')
if state == 'paused' then
  redis.call('HSET', JOB, 'state', 'running')
  release()
  live()
  return 'running'
end
return state
