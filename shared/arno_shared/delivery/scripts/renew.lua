-- Renews leases, by the server's clock. KEYS: index of unacked. ARGV: tags. Returns those that there is no lease of.
local t = redis.call('TIME')
local lost = {}
-- A server whose memory is full refuses what may take more, until a script has written something else.
redis.call('ZREM', KEYS[1], '')
for _, tag in ipairs(ARGV) do
  if redis.call('ZSCORE', KEYS[1], tag) then
    redis.call('ZADD', KEYS[1], 'XX', t[1] + t[2] / 1000000, tag)
  else
    lost[#lost + 1] = tag
  end
end
return lost
