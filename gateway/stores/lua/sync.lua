-- The heartbeat: renew the lease, repeat the word on the slots, reap the dead and grant what they held.
-- ARGV  4 the owner's word on the slots or ''.
if is_stale() then return stale() end
tell_slots(ARGV[4])
renew_and_reap()
grant()
return answer()
