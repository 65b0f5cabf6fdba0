-- The line as it stands, for those who play it forward: a page of entries and a page of standings, each after one given.
-- ARGV  1 how many of each at most, 2 the entry, 3 the standing to go on after, '' from the beginning.
-- Each page is one string, its members apart by AFTER_NUL: one string of a megabyte costs its reader less than
-- thousands of short ones.
local function page(set, after)
  local from = after == '' and '-' or '(' .. after
  return table.concat(redis.call('ZRANGEBYLEX', set, from, '+', 'LIMIT', 0, ARGV[1]), AFTER_NUL)
end

local owed = {}
for field, value in string.gmatch(table.concat(redis.call('HGETALL', POOL), ' '), 'owed:(%d+) (-?%d+)') do
  table.insert(owed, field)
  table.insert(owed, value)
end
return {number_in(POOL, 'granted'), owed, page(WAITING, ARGV[2]), page(ROUNDS, ARGV[3])}
