-- An image is about to run alone in a worker. ARGV: index.attempt/position.
-- Returns how often it was begun so without an end, this time included.
even_when_full()
local times = redis.call('HINCRBY', BEGUN, ARGV[1], 1)
age_with_job(BEGUN)
return times
