-- The keys of one pool's line, and how they are read: put before every script of RedisQueue.
--
-- KEYS  1 pool       hash        slots; entered, granted, completed (counts so far); owed:<class>
--       2 tickets    hash        ticket id -> state, owner NUL entry (see below)
--       3 waiting    sorted set  the entries of the tickets in line
--       4 rounds     sorted set  round NUL counter joined name, for those that take part: see turns.lua
--       5 idle       sorted set  round NUL counter name, for those that do not and are remembered
--       6 standings  hash        round NUL name -> counter joined
--       7 floors     hash        round -> floor
--       8 owned      sorted set  owner NUL ticket id
--       9 owners     sorted set  owner -> when its lease of tickets and credit ends, in ms
--      10 epochs     hash        owner -> the epoch of its last claim
--      11 books      hash        owner -> what it holds on credit: see credit.lua
-- In the sets 3 to 8 all scores are 0, so they are in order of their members' bytes. The list <pool>:wake:<owner> holds
-- "epoch id id …" for tickets that another owner's call granted, or "epoch" alone to have credit back. Its name cannot
-- be declared, for who is woken is decided here; it has the same hash tag, which is what Redis Cluster needs.
--
-- An entry is  class NUL tenant NUL user NUL deadline NUL number NUL id NUL work NUL weight NUL charge , its number
-- given on arrival: so the tickets of a user are in the order of its line. A ticket's state is one of those below.

local POOL, TICKETS, WAITING, ROUNDS, IDLE, STANDINGS, FLOORS = unpack(KEYS, 1, 7)
local OWNED, OWNERS, EPOCHS, BOOKS = unpack(KEYS, 8, 11)
local NUL, AFTER_NUL = '\0', '\1'
local IN_LINE, OUT_OF_LINE, PAST_LINE = 'w', 'g', 's' -- waits; granted; granted without having waited, uncharged
local DIGITS = 16

-- Whole numbers as their bytes are ordered. (Lua's own conversion rounds to 14 digits.)
local function digits(number) return string.format('%0' .. DIGITS .. '.0f', number) end

local function number_in(hash, field) return tonumber(redis.call('HGET', hash, field) or 0) end

local function starting_with(set, prefix, ...)
  return redis.call('ZRANGEBYLEX', set, '[' .. prefix .. NUL, '(' .. prefix .. AFTER_NUL, ...)
end

local function first_with(set, prefix) return starting_with(set, prefix, 'LIMIT', 0, 1)[1] end
