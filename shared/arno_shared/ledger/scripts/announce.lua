-- ARGV: chunks, images (so far), sealed, retention_s. Returns 0 when there is no such job.
if redis.call('EXISTS', JOB) == 0 then return 0 end
for field, n in pairs({chunks = tonumber(ARGV[1]), images = tonumber(ARGV[2])}) do
  if n > tonumber(redis.call('HGET', JOB, field) or 0) then redis.call('HSET', JOB, field, n) end
end
if ARGV[3] == '1' then
  redis.call('HSET', JOB, 'sealed', '1')
  settle(ARGV[4])
end
return 1
