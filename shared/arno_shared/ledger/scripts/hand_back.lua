-- A beginning came to nothing through no fault of its own. A: index.attempt or index.attempt/position, the holder's tag.
even_when_full()
-- Called again because its answer was lost, it finds nothing to take away.
local gone, tags = string.match(redis.call('HGET', BEGUN, A[1]) or '0', '^(%d+)(.*)$')
local others = {}
for tag in string.gmatch(tags, '%S+') do
  if tag ~= A[2] then others[#others + 1] = tag end
end
write_beginnings(A[1], tonumber(gone), others)
