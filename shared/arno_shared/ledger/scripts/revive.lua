-- Somebody says that a job is to go on, whatever became of it. A: lane.
-- Chunks that were given up whole are to be sent again, as everything uncommitted is, and their letters go.
even_when_full()
wake()
redis.call('HSET', JOB, 'lane', A[1])
for _, field in ipairs(redis.call('HKEYS', BURIED)) do
  -- What was given up in a later attempt is in its letter alone.
  if string.sub(field, -2) == '.1' then unbury(field) end
end
release()
-- Nothing may be missing: then this is all that happens.
settle()
