-- What a consumer is given, in one step: nothing is trimmed between what is counted and what is read.
-- KEYS: topic. ARGV: group, consumer, most entries, stale_ms, where a group begins that is not there yet: 0 or $.
-- Returns entries; how many were trimmed that the group had not been given, or -1 where some may have been and the
-- server cannot tell how many; and how many were trimmed that somebody had been given and never acknowledged.
local topic, group, consumer, most, stale_ms, start = KEYS[1], unpack(ARGV)

local function fields_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

local function the_stream() return fields_of(redis.call('XINFO', 'STREAM', topic)) end

local function our_group()
  if redis.call('EXISTS', topic) == 0 then return nil end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', topic)) do
    local found = fields_of(flat)
    if found['name'] == group then return found end
  end
end

local function is_before(one, other)
  local ms, n = string.match(one, '(%d+)-(%d+)')
  local other_ms, other_n = string.match(other, '(%d+)-(%d+)')
  ms, n, other_ms, other_n = tonumber(ms), tonumber(n), tonumber(other_ms), tonumber(other_n)
  return ms < other_ms or (ms == other_ms and n < other_n)
end

-- That the group has been given `id` and what came before it: `entries` in all. Servers count on from there.
local function set_read(id, entries)
  redis.call('XGROUP', 'SETID', topic, group, id, 'ENTRIESREAD', string.format('%.0f', entries))
end

local function make_group()
  redis.call('XGROUP', 'CREATE', topic, group, start, 'MKSTREAM')
  local added = the_stream()['entries-added']
  if added then set_read(start, start == '$' and added or 0) end
  return our_group()
end

-- How many entries the group has been given; false where that is not known.
local function entries_read(ours) return ours['last-delivered-id'] == '0-0' and 0 or ours['entries-read'] end

local function trimmed_unread(ours)
  local stream, last = the_stream(), ours['last-delivered-id']
  local first = stream['first-entry'] and stream['first-entry'][1]
  if last == stream['last-generated-id'] or (first and not is_before(last, first)) then return 0 end
  local added, deleted = stream['entries-added'], stream['max-deleted-entry-id']
  -- Before Redis 7 nothing is counted; and who deletes from the middle takes the count away.
  if not added or (first and not is_before(deleted, first)) then return -1 end
  local gone, read = added - stream['length'], entries_read(ours)
  -- Servers differ in whether they count over the gap: from here on, what is gone counts as given.
  set_read(last, gone)
  return read and math.max(0, gone - read) or -1
end

local function left_by_others()
  local entries, lapsed = {}, 0
  for _, pending in ipairs(redis.call('XPENDING', topic, group, 'IDLE', stale_ms, '-', '+', most)) do
    local id = pending[1]
    if #redis.call('XRANGE', topic, id, id) == 0 then
      lapsed = lapsed + redis.call('XACK', topic, group, id)
    else
      entries[#entries + 1] = redis.call('XCLAIM', topic, group, consumer, stale_ms, id)[1]
    end
  end
  return entries, lapsed
end

local trimmed = trimmed_unread(our_group() or make_group())
local entries, lapsed = left_by_others()
if #entries == 0 then
  local answer = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', most, 'STREAMS', topic, '>')
  entries = answer and answer[1][2] or {}
end
return {entries, trimmed, lapsed}
