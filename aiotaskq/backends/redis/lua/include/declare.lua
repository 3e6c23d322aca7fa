-- Takes note of the rows that a push parks: the bounds that they declare, and how many may wait.

-- Gates at which the rows of a push were parked: those of a push with more are left to a sweep, some at a time.
local MAX_GATES = 1000

-- Of the rows that were inserted: the gates that they name, the bounds that they declare for each, the ids of those
-- that are parked at each, and when the latest one was pushed.
local named, declared, arrived, latest

-- Let rows of a push pass their gate before they are written, if that is their only one, no other row waits there, and
-- there is room for all of them: what is parked would be written, read and removed. Rows are as for insert_list(), and
-- all of the push: none of them is written yet, so those that take a slot are counted in no index.
function admission.enter(rows)
  use_gates()
  local tools = gate_tools()
  local lines, keys, newest = {}, {}, 0
  for i = 3, #rows, 3 do
    local row = tools.new_row(rows[i])
    if row then
      local key, line = row.place.gate, lines[row.place.gate]
      if not line then
        line = {}
        lines[key], keys[#keys + 1] = line, key
      end
      line[#line + 1], row.at = row, i
      line.stays = line.stays or row.stays
      newest = math.max(newest, math.min(row.seq, tonumber(row.due)))
    end
  end
  if not keys[1] then return rows end
  local waits, free, closed_queues = read_flags('waited', keys), false, {}
  for n, key in ipairs(keys) do free = free or waits[n] == 0 and not lines[key].stays end
  if not free then return rows end
  local texts = read_fields('gates', keys)
  gated.load_slots(keys)
  for _, name in ipairs(call('SMEMBERS', root .. 'paused')) do closed_queues[name] = true end
  for n, key in ipairs(keys) do
    local line = lines[key]
    for _, row in ipairs(line) do line.stays = line.stays or closed_queues[queue_of(row.lane)] end
    if waits[n] == 0 and not line.stays then tools.enter_all(key, texts[n], line, rows, newest) end
  end
  return rows
end

local function pushed_at(row, due) return math.min(tonumber(row.seq), due) end  -- as in core.parking

function admission.note_push(id, row)
  if not declared then named, declared, arrived, latest = {}, {}, {}, 0 end
  local place = gated.place_of(row)
  for i, key in ipairs(place.keys) do
    if not declared[key] then named[#named + 1] = key end
    declared[key] = gated.declared_bounds(place, i)
  end
  latest = math.max(latest, pushed_at(row, tonumber(row.due) or tonumber(row.run_at)))
  if not gated.is_parked(row) or not place.gate then return end
  local ids = arrived[place.gate]
  if ids then ids[#ids + 1] = id else arrived[place.gate] = {id} end
end

-- The bounds that rows declare which got other gates by a change, by gate, and when the last of them is due.
local redeclared

function admission.note_other_gates(row)
  redeclared = redeclared or {}
  local place = gated.place_of(row)
  local due = gated.is_parked(row) and tonumber(row.due) or tonumber(row.run_at)
  for i, key in ipairs(place.keys) do redeclared[key] = {bounds = gated.declared_bounds(place, i), at = due} end
end

-- Take the bounds that pushed rows declare. Return a gate where more rows than may would wait, and how many may; but
-- not for follow-ups and callbacks, which are never refused.
function admission.declare(never_refused)
  if not declared and not redeclared then return nil end
  local tools = gate_tools()
  local rule = tools.rule

  for key, by in pairs(redeclared or {}) do
    local gate, known = tools.gate_of(key)
    local other = not gate.fixed and rule.bounds_text(by.bounds) ~= gate.text
    if not known then rule.new_bounds(gate, by.bounds) end
    if other and known then
      rule.set_bounds(gate, by.bounds, by.at)
      gate.next_at = 0
      gated.made_due = true
    end
    tools.save_gate(key, gate, other or not known)
  end
  if not declared then return nil end

  local function first_to_pass(a, b)
    if a.priority ~= b.priority then return a.priority < b.priority end
    if a.due ~= b.due then return a.due < b.due end
    return a.seq < b.seq
  end

  -- Let the parked rows pass gate by gate, without a write, where no others wait. Return a gate where more than may
  -- would wait then, and how many may.
  local function find_full(keys)
    local found, order, level, closed_queues = {}, {}, {}, {}
    for _, name in ipairs(call('SMEMBERS', root .. 'paused')) do closed_queues[name] = true end

    local function state_of(key)
      local state = found[key]
      if not state then
        local gate = tools.gate_of(key)
        state = {
          gate = {tat = gate.tat, closed = gate.closed, charged = gate.charged, bounds = gate.bounds},
          held = gated.count_slots(key), starts = tools.starts_of(key, gate) or {unstarted = 0, started = {}},
          waiting = tools.count_waiting(key), staying = 0,
        }
        -- Where a due row waits already, no row of the push passes.
        state.has_due = state.waiting > 0 and tools.has_due(key, string.format('%.0f', latest))
        found[key], order[#order + 1] = state, key
      end
      return state
    end
    for n, key in ipairs(keys) do
      local rows = {}
      for i, id in ipairs(arrived[key]) do
        local row = row_of(id)
        local place, due = gated.place_of(row), tonumber(row.due) or tonumber(row.run_at)
        rows[i] = {
          keys = place.keys, place = place, priority = tonumber(match(row.lane, '^%-?%d+')), due = due,
          seq = tonumber(row.seq), due_now = due <= latest and not closed_queues[queue_of(row.lane)],
        }
        for number, each in ipairs(place.keys) do
          state_of(each)
          if each == key then rows[i].number = number end
        end
      end
      level[n] = {key = key, rows = rows}
    end
    while level[1] do
      local behind, lines = {}, {}
      for _, line in ipairs(level) do
        local state, due, weights = state_of(line.key), {}, {}
        if not state.has_due and state.staying == 0 then
          for _, row in ipairs(line.rows) do
            if row.due_now then due[#due + 1] = row end
          end
          table.sort(due, first_to_pass)
          for i, row in ipairs(due) do weights[i] = gated.tokens(row.place, line.key) end
        end
        rule.charge(state.gate, state.starts, latest)
        local count = due[1] and rule.admit(state.gate, state.held, latest, weights) or 0
        for i = 1, count do
          local row = due[i]
          row.number = row.number + 1
          if row.place.shared then row.due = math.max(row.due, latest) end
          local key = row.keys[row.number]
          if key and not lines[key] then
            lines[key] = {key = key, rows = {}}
            behind[#behind + 1] = lines[key]
          end
          if key then table.insert(lines[key].rows, row) end
        end
        state.held, state.staying = state.held + count, state.staying + #line.rows - count
      end
      level = behind
    end
    for _, key in ipairs(order) do
      local state, most = found[key], found[key].gate.bounds.max_waiting
      if most and state.waiting + state.staying > most then return key, string.format('%.0f', most) end
    end
  end

  local keys, texts = {}, read_fields('gates', named)
  for i, key in ipairs(named) do
    tools.gate_of(key, texts[i])
    if arrived[key] then keys[#keys + 1] = key end
  end
  local many, bounded = #keys > MAX_GATES, false
  for _, key in ipairs(named) do
    local gate, known = tools.gate_of(key)
    local other = not gate.fixed and declared[key] ~= gate.bounds and rule.bounds_text(declared[key]) ~= gate.text
    if not known then rule.new_bounds(gate, declared[key]) end
    if other and known then
      rule.set_bounds(gate, declared[key], latest)
      gate.next_at = latest  -- what waits there may pass, though this push waits elsewhere
    end
    if many and arrived[key] then
      gate.next_at = 0
      gated.made_due = true
    end
    tools.save_gate(key, gate, other or not known)
    bounded = bounded or gate.bounds.max_waiting
  end
  if bounded and not never_refused then
    local full, most = find_full(keys)
    if full then return full, most end
  end
  if many then return nil end
  for _, key in ipairs(keys) do gated.touch(key, latest) end
end
