-- The part of a state that scripts read; they never decode its JSON. Needs flow.lua.

-- The head of a state: status, fence, cancel flag, lease, expires_at, 1 if there are keys and 2 more if there are
-- gates, seq, run_at, completed_at, the lengths in bytes of the lane and of the names; then the lane, the names and
-- JSON. The lease is lease_until, or '@', the owner and perhaps '!alone' for a running row that its worker holds, or
-- '-'. The names of a row with a flow (with gates, in a group) begin with due_at or '-', the length of its gate or '-',
-- that of its flow, the gate, and the flow as JSON. For a child that
-- waits for its parents 'w' and their number in four digits are in place of the length of a gate. Its run_at, due_at,
-- gate, waits and flow are those here, whatever the JSON behind the head says; for a row that is not parked, any due_at
-- that begins with '-' is none.
local HEAD = '^(%S+) (%-?%d+) ([01]) (%S+) (%S+) ()([0-3]) (%-?%d+) (%-?%d+) (%S+) (%d+) (%d+) ()'

-- The fields of a head, which guards and indexes depend on; nil if there is no row, or its head cannot be read.
local function parse(state)
  if not state then return nil end
  local status, fence, cancel, lease, expires, _, keyed, seq, run_at, completed, lane, names, at = match(state, HEAD)
  if not status then return nil end
  return {
    status = status, fence = fence, cancel = cancel, lease = lease, expires = expires,
    keyed = keyed == '1' or keyed == '3', flow = keyed == '2' or keyed == '3', seq = seq, run_at = run_at,
    completed = completed,
    lane = sub(state, at, at + lane - 1),
    names = sub(state, at + lane, at + lane + names - 1), json = at + lane + names,
  }
end

local function row_of(id)
  if states[id] == nil then load_states({id}) end
  return parse(states[id])
end
