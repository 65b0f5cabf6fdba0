-- Begin an epoch: make what the owner holds here equal to what it says it holds. Repairs whatever went wrong before.
-- ARGV  how many tickets are in flight, those; then the ids of the ones that wait.
if known_epoch() >= EPOCH then return stale() end
redis.call('HSET', EPOCHS, OWNER, EPOCH)
redis.call('DEL', wake_list(OWNER))
take_books()

local claimed, first_waiting = {}, VERB + 1 + tonumber(ARGV[VERB])
for i = VERB + 1, first_waiting - 1 do claimed[unpack_entry(ARGV[i]).id] = true end
for i = first_waiting, #ARGV do claimed[ARGV[i]] = true end
for _, id in ipairs(ids_of(OWNER, ALL)) do
  if not claimed[id] then drop(id) end
end
for i = VERB + 1, first_waiting - 1 do
  local ticket = read_ticket(ARGV[i])
  local known = load(ticket.id)
  if known and known.state == IN_LINE then -- the store fell back behind a grant that its owner has heard of
    quit(known)
    charge_more(known.class, known.tenant, known.user, tonumber(known.charge))
  end
  if not known or known.state == IN_LINE then
    ticket.state = OUT_OF_LINE
    save(ticket)
  end
end
for i = first_waiting, #ARGV do
  local known = load(ARGV[i])
  if known then look_up(known) else table.insert(unknown, ARGV[i]) end
end
count_free()
return finish()
