-- Returns the job's state, or false when there is no such job.
even_when_full()
local state = get('state')
if state == 'running' or state == 'paused' then
  finish('cancelled')
  settle()
  return 'cancelled'
end
return state
