-- How much of a job was submitted. A: chunks, images (so far), '1' when that is all, digest of all images.
-- Returns 'announced'; 'gone' when there is no such job; 'sealed' when all of it was submitted before, and it was less, or
-- other; 'more' when it is sealed with less than was announced.
may_do_all()
if redis.call('EXISTS', JOB) == 0 then return 'gone' end
local chunks, images, seals, digest = tonumber(A[1]), tonumber(A[2]), A[3] == '1', A[4]
local sealed = get('sealed') == '1'
if sealed and chunks > number('chunks') then return 'sealed' end
if seals then
  if chunks < number('chunks') then return 'more' end
  if digest ~= (get('digest') or digest) then return 'sealed' end
end
if chunks > number('chunks') then redis.call('HSET', JOB, 'chunks', chunks, 'images', images) end
if seals then
  redis.call('HSET', JOB, 'sealed', '1', 'digest', digest)
end
settle()
return 'announced'
