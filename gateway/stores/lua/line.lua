-- The order of tickets: core/scheduling.py's Line over Redis. Reserves are its percentages, told by every caller.

local ENTRY = '^(%d)%z([^%z]*)%z([^%z]*)%z(%d+)%z(%d+)%z([^%z]*)%z(%d+)%z(%d+)%z(%d+)$'
local PACKED = '^(.)([^%z]*)%z(.*)$'

local function pack_entry(ticket)
  return table.concat({ticket.class, ticket.tenant, ticket.user, ticket.deadline, ticket.number, ticket.id, ticket.work,
    ticket.weight, ticket.charge}, NUL)
end

local function unpack_entry(entry)
  local ticket = {}
  ticket.class, ticket.tenant, ticket.user, ticket.deadline, ticket.number, ticket.id, ticket.work, ticket.weight,
    ticket.charge = string.match(entry, ENTRY)
  return ticket
end

local function load(id)
  local packed = redis.call('HGET', TICKETS, id)
  if not packed then return nil end
  local state, owner, entry = string.match(packed, PACKED)
  local ticket = unpack_entry(entry)
  ticket.state, ticket.owner = state, owner
  return ticket
end

local function save(ticket)
  redis.call('HSET', TICKETS, ticket.id, ticket.state .. ticket.owner .. NUL .. pack_entry(ticket))
  redis.call('ZADD', OWNED, 0, ticket.owner .. NUL .. ticket.id)
end

local function waiting() return redis.call('ZCARD', WAITING) end

local function waiting_of(tenant, classes)
  local count = 0
  for class = 0, classes - 1 do
    local prefix = class .. NUL .. tenant
    count = count + redis.call('ZLEXCOUNT', WAITING, '[' .. prefix .. NUL, '(' .. prefix .. AFTER_NUL)
  end
  return count
end

local function waits(prefix) return first_with(WAITING, prefix) ~= nil end

-- The tenants of a class take turns, and the users of a tenant in a class.
local function tenants_round(class) return 't' .. class end
local function users_round(class, tenant) return 'u' .. class .. NUL .. tenant end

local function join(ticket)
  ticket.state, ticket.number = IN_LINE, digits(redis.call('HINCRBY', POOL, 'entered', 1))
  turns_join(tenants_round(ticket.class), ticket.tenant, ticket.number)
  turns_join(users_round(ticket.class, ticket.tenant), ticket.user, ticket.number)
  redis.call('ZADD', WAITING, 0, pack_entry(ticket))
  save(ticket)
end

-- Tell whether the ticket's user and its tenant have others that wait.
local function others_of(ticket)
  local of_tenant = ticket.class .. NUL .. ticket.tenant
  local has_user = waits(of_tenant .. NUL .. ticket.user)
  return has_user, has_user or waits(of_tenant)
end

-- Take a ticket out of line, uncharged.
local function quit(ticket)
  redis.call('ZREM', WAITING, pack_entry(ticket))
  local round = users_round(ticket.class, ticket.tenant)
  local has_user, has_tenant = others_of(ticket)
  if not has_user then turns_leave(round, ticket.user) end
  if has_tenant then return end
  turns_end(round)
  turns_leave(tenants_round(ticket.class), ticket.tenant)
  if not waits(ticket.class) then redis.call('HDEL', POOL, 'owed:' .. ticket.class) end
end

local function charge_more(class, tenant, user, amount)
  turns_settle(tenants_round(class), tenant, amount)
  turns_settle(users_round(class, tenant), user, amount)
end

-- Which classes have tickets in line, by class.
local function classes_waiting(reserves)
  local found = {}
  for class = 0, #reserves - 1 do found[class] = waits(class) end
  return found
end

local function class_in_turn(reserves)
  local first
  for class, is_waiting in pairs(classes_waiting(reserves)) do
    if is_waiting then
      local rank = class + (number_in(POOL, 'owed:' .. class) > 0 and 0 or #reserves)
      if not first or rank < first then first = rank end
    end
  end
  return first and first % #reserves
end

-- Keep the books on reserves: *served*, which waited, was granted *work*; those that still wait fall behind.
local function note_share(served, work, reserves)
  local is_waiting, is_most_urgent = classes_waiting(reserves), true
  for class = 0, #reserves - 1 do
    local field, is_served = 'owed:' .. class, class == served
    if not is_waiting[class] or (is_served and is_most_urgent) then
      redis.call('HDEL', POOL, field)
    else
      local owed = number_in(POOL, field) + reserves[class + 1] * work - (is_served and 100 * work or 0)
      redis.call('HSET', POOL, field, string.format('%.0f', owed))
    end
    is_most_urgent = is_most_urgent and not is_waiting[class]
  end
end

-- Take the ticket whose turn it is out of line and charge for it; nothing if nobody waits.
local function next_ticket(reserves)
  local class = class_in_turn(reserves)
  if not class then return nil end
  local tenants = tenants_round(class)
  local tenant = turns_first(tenants)
  local users = users_round(class, tenant)
  local user = turns_first(users)
  local entry = first_with(WAITING, table.concat({class, tenant, user}, NUL))
  local ticket = load(unpack_entry(entry).id)
  redis.call('ZREM', WAITING, entry)
  local has_user, has_tenant = others_of(ticket)
  local amount = tonumber(ticket.charge)
  turns_charge(users, user, amount, not has_user)
  turns_charge(tenants, tenant, amount, not has_tenant)
  if not has_tenant then turns_end(users) end
  note_share(class, tonumber(ticket.work), reserves)
  return ticket
end
