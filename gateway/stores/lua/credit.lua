-- Who holds what: slots held by tickets, slots leased to gateways as credit, and the leases of both. Time is Redis's
-- own, so gateways need no common clock.
--
-- ARGV  1 owner, 2 its epoch, 3 its lease in ms, 4 the reserves of the classes, 5 its word on the slots or '',
--       6 how many slots it uses of its credit, 7 how many such it has given back so far, 8 how many more it wants,
--       9 how many may wait, 10 how many of one tenant, 11 the number of its last corrections, 12 how many they are;
--       then those: class, tenant, user, what to charge more; then what the verb says.
--
-- A slot is free, or held by a ticket that is not in line, or leased. What an owner uses of its lease Redis knows only
-- by number. While somebody waits, a lease is what is used of it: the rest is granted to those who wait.
-- Books: leased, used, given back, number of the last corrections, 1 if the owner knows that somebody waits.

local OWNER, EPOCH, LEASE_MS, WORD = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[5]
local USED, GIVEN_BACK, WANTED = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local WAITING_MAX, WAITING_OF_TENANT_MAX = tonumber(ARGV[9]), tonumber(ARGV[10])
local BATCH, CORRECTIONS = tonumber(ARGV[11]), tonumber(ARGV[12])
local VERB = 13 + 4 * CORRECTIONS -- where the verb's own arguments begin
local RESERVES = {}
for percent in string.gmatch(ARGV[4], '%d+') do table.insert(RESERVES, tonumber(percent)) end

local ALL = -1
local REAPED_MAX = 2000 -- tickets of a dead owner per call: some 50 ms

-- Tickets of the caller: started past the line, granted out of it, not known, refused as the line or a share is full.
local started, granted, unknown, line_full, share_full = {}, {}, {}, {}, {}
local woken = {} -- owner -> its epoch and the ids of its tickets that this call granted
local free = 0

local function wake_list(owner) return POOL .. ':wake:' .. owner end

-- The epoch as the store knows it differs if the owner was reaped, or the store emptied, or the call is a ghost: one
-- that its owner gave up long ago. Only a claim with a newer epoch helps.
local function known_epoch() return number_in(EPOCHS, OWNER) end
local function stale() return {'stale', known_epoch()} end

local function books_of(owner)
  local found = {0, 0, 0, 0, 0}
  local packed, n = redis.call('HGET', BOOKS, owner), 0
  for number in string.gmatch(packed or '', '%d+') do
    n = n + 1
    found[n] = tonumber(number)
  end
  return packed and found, found
end

local function write_books(owner, ...)
  redis.call('HSET', BOOKS, owner, string.format('%.0f %.0f %.0f %.0f %.0f', ...))
end

local function on_credit()
  local leased, used = 0, 0
  for _, packed in ipairs(redis.call('HVALS', BOOKS)) do
    local of_owner, of_them = string.match(packed, '^(%d+) (%d+)')
    leased, used = leased + of_owner, used + of_them
  end
  return leased, used
end

local function slots() return number_in(POOL, 'slots') end
local function ticketed() return redis.call('HLEN', TICKETS) - waiting() end

-- Give up a ticket's place, in line or in flight; tell whether it was in flight.
local function drop(id)
  local ticket = load(id)
  if not ticket then return false end
  if ticket.state == IN_LINE then quit(ticket) end
  redis.call('HDEL', TICKETS, id)
  redis.call('ZREM', OWNED, ticket.owner .. NUL .. id)
  return ticket.state ~= IN_LINE
end

local function ids_of(owner, most)
  local ids = starting_with(OWNED, owner, 'LIMIT', 0, most)
  for i, entry in ipairs(ids) do ids[i] = string.sub(entry, #owner + 2) end
  return ids
end

-- Take from an owner what it held; of its tickets at most so many, and the rest at the next call.
local function disown(owner, most)
  redis.call('HDEL', EPOCHS, owner) -- from here on it is heard again only if it claims
  redis.call('HDEL', BOOKS, owner)
  local ids = ids_of(owner, most)
  for _, id in ipairs(ids) do drop(id) end
  if #ids == most then return end
  redis.call('ZREM', OWNERS, owner)
  redis.call('DEL', wake_list(owner))
end

-- Renew the caller's lease; take from owners whose lease has ended what they held.
local function renew_and_reap()
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZADD', OWNERS, now_ms + LEASE_MS, OWNER)
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', OWNERS, '-inf', now_ms)) do disown(owner, REAPED_MAX) end
end

-- Take what the caller says of itself. It gives its credit back for the time of the call, all but what it uses.
local function take_books()
  if WORD ~= '' then redis.call('HSET', POOL, 'slots', WORD) end
  local known, books = books_of(OWNER)
  if known then redis.call('HINCRBY', POOL, 'completed', math.max(0, GIVEN_BACK - books[3])) end
  if BATCH > books[4] then
    for i = 13, VERB - 1, 4 do charge_more(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])) end
  end
  write_books(OWNER, USED, USED, GIVEN_BACK, BATCH, 0)
  renew_and_reap()
end

local function count_free() free = slots() - ticketed() - on_credit() end

local function read_ticket(entry)
  local ticket = unpack_entry(entry)
  ticket.owner = OWNER
  return ticket
end

local function start(ticket)
  ticket.state = PAST_LINE
  save(ticket)
  free = free - 1
  table.insert(started, ticket.id)
end

-- Tell the caller what became of a ticket that is known.
local function look_up(ticket)
  if ticket.state == PAST_LINE then table.insert(started, ticket.id) end
  if ticket.state == OUT_OF_LINE then table.insert(granted, ticket.id) end
end

-- Give free slots to the tickets whose turn it is.
local function grant()
  while free > 0 do
    local ticket = next_ticket(RESERVES)
    if not ticket then return end
    ticket.state = OUT_OF_LINE
    save(ticket)
    free = free - 1
    redis.call('HINCRBY', POOL, 'granted', 1)
    if ticket.owner == OWNER then
      table.insert(granted, ticket.id)
    else
      woken[ticket.owner] = woken[ticket.owner] or {number_in(EPOCHS, ticket.owner)}
      table.insert(woken[ticket.owner], ticket.id)
    end
  end
end

-- Let a ticket have a free slot if nobody waits, else put it in line or refuse it. *word* is its entry after a letter:
-- u if it had its place before, so that no bound applies to it.
local function enter(word)
  local ticket, is_bounded = read_ticket(string.sub(word, 2)), string.sub(word, 1, 1) ~= 'u'
  local known = load(ticket.id)
  if known then return look_up(known) end
  local in_line = waiting()
  if free > 0 and in_line == 0 then
    start(ticket)
  elseif is_bounded and in_line >= WAITING_MAX then
    table.insert(line_full, ticket.id)
  elseif is_bounded and in_line >= WAITING_OF_TENANT_MAX
    and waiting_of(ticket.tenant, #RESERVES) >= WAITING_OF_TENANT_MAX then
    table.insert(share_full, ticket.id)
  else
    join(ticket)
  end
end

-- With nobody waiting, lend the caller more than it uses, and leave as much for each of the others, twice over.
local function lend(is_contended)
  local more = 0
  if not is_contended and free > 0 then
    more = math.min(WANTED, math.max(1, math.floor(free / (2 * redis.call('ZCARD', OWNERS)))))
  end
  local _, books = books_of(OWNER)
  write_books(OWNER, USED + more, USED, GIVEN_BACK, books[4], is_contended and 1 or 0)
  return USED + more
end

-- Ask others once to give back the credit that they do not use, and to say from now on when they use less.
local function recall()
  local books = redis.call('HGETALL', BOOKS)
  for i = 1, #books, 2 do
    local owner, leased, rest, knows = books[i], string.match(books[i + 1], '^(%d+)(.*) (%d)$')
    if owner ~= OWNER and leased ~= '0' and knows == '0' then
      redis.call('HSET', BOOKS, owner, leased .. rest .. ' 1')
      woken[owner] = woken[owner] or {number_in(EPOCHS, owner)}
    end
  end
end

local function wake()
  for owner, words in pairs(woken) do redis.call('RPUSH', wake_list(owner), table.concat(words, ' ')) end
end

-- End a call: grant what is free, lend or recall credit, wake the others, tell how things stand.
local function finish()
  grant()
  local is_contended = waiting() > 0
  local lease = lend(is_contended)
  if is_contended then recall() end
  wake()
  local _, used = on_credit()
  return {'ok', started, granted, unknown, line_full, share_full, ticketed() + used, waiting(), slots(),
    number_in(POOL, 'granted'), number_in(POOL, 'completed'), redis.call('ZCARD', OWNERS), lease}
end
