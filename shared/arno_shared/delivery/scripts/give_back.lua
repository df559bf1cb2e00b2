-- Gives messages back. ARGV: key prefix, 'next' or 'last', queue or '' for each one's own, then tags.
-- Returns how many there were.
may_take_out()
local given = 0
for i = 4, #ARGV do
  if give_back(ARGV[i], ARGV[2], ARGV[3] ~= '' and ARGV[3]) then given = given + 1 end
end
return given
