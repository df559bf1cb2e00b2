-- Whether a chunk is to be done. A: index or '', attempt, message id, '1' when that is the house's own, digest of what is
-- asked, prefix, format, tag of the claim, how many indices there are, the first that may be given or ''.
-- Returns the verdict; the chunk's index; how often it was begun without an end, this time included; and, of a later
-- attempt, what was noted when it was put off, and its images' positions as noted when it was given up.
-- 'conflict': it would share a place with somebody else's. 'unsure': its index is committed, and only the result object can
-- tell whether it was this chunk. 'unnumbered': it names no index, and nothing is known here of those that were given.
local index, attempt, message_id, digest = A[1], tonumber(A[2]), A[3], A[5]
local house = A[4] == '1'
even_when_full()

local function verdict(word)
  return {word, tonumber(index) or 0, 0, '', ''}
end

-- A message of somebody else's has an index of its own, or the one that it names: nobody else's.
local function settle_index()
  if index ~= '' then
    if is_anothers(index, 1, digest) then return 'conflict' end
    if redis.call('HEXISTS', LOOSE, '#' .. index) == 1 then return 'mine' end
    if is_committed(tonumber(index), 1) then return 'unsure' end
  else
    local name, first = message_id .. ' ' .. digest, A[10]
    index = redis.call('HGET', LOOSE, name)
    if not index and first == '' and get('top') == '-1' then return 'unnumbered' end
    if first ~= '' then raise_top(tonumber(first) - 1) end
    index = index or get('top') + 1
    if tonumber(index) >= tonumber(A[9]) then return 'conflict' end
    redis.call('HSET', LOOSE, name, index)
  end
  redis.call('HSET', LOOSE, '#' .. index, digest)
  raise_top(tonumber(index))
  return 'mine'
end

if redis.call('EXISTS', JOB) == 0 then
  local was, origin, output = unpack(redis.call('HMGET', TOMBSTONE, 'state', 'origin', 'output'))
  if was then
    for _, key in ipairs({TOMBSTONE, COMMITTED, BYGONE, BURIED}) do redis.call('EXPIRE', key, TOMBSTONE_S) end
  end
  if output and output ~= redis.sha1hex(A[6] .. A[7]) then return verdict('conflict') end
  if was == 'cancelled' then return verdict('cancelled') end
  if was and origin ~= 'message' and not house then return verdict('conflict') end
  if index ~= '' and is_anothers(index, attempt, digest) then return verdict('conflict') end
  local ended = attempt > 1 or is_committed(tonumber(index) or 0, 1)
  if was == 'done' and origin ~= 'message' and ended then return verdict('committed') end
  if index ~= '' and is_committed(tonumber(index), attempt) then return verdict(house and 'committed' or 'unsure') end
end
if not claim_place() then return verdict('conflict') end
open_for_message(A[6], A[7])
if get('prefix') ~= A[6] or get('format') ~= A[7] then return verdict('conflict') end
local origin = get('origin')
if house then
  -- It calls itself so, and is not what was submitted.
  if origin ~= 'message' and attempt == 1 and get('sealed') == '1' and tonumber(index) >= number('chunks') then
    return verdict('conflict')
  end
  if is_anothers(index, attempt, digest) then return verdict('conflict') end
  note_asked(tonumber(index), attempt, digest)
elseif origin ~= 'message' then
  -- A producer's job has the chunks that it gave it, and no others.
  return verdict('conflict')
elseif attempt == 1 or index == '' then
  local whose = settle_index()
  if whose ~= 'mine' then return verdict(whose) end
end
index = tonumber(index)
if is_committed(index, attempt) then return verdict('committed') end
local state = get('state')
if state == 'cancelled' then
  if attempt == 1 and origin ~= 'message' then count('dropped', 1) end
  settle()
  return verdict('cancelled')
end
if state == 'paused' then return verdict('paused') end
if state == 'incomplete' or (state == 'done' and origin == 'message') then wake() end
local field = index .. '.' .. attempt
local times = count_beginning(field, A[8])
if state ~= 'done' or origin == 'message' then live() end
local _, _, _, positions = buried(field)
return {'go', index, times, attempt > 1 and redis.call('HGET', PUT_OFF, field) or '', positions or ''}
