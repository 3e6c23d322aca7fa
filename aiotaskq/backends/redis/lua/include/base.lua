-- The rows of one namespace: read them, note what shall change, and write all changes at the end.
--
-- KEYS[1] is the prefix of every key, a hash tag ('{aiotaskq}:'): all keys are in one slot of a cluster, and one
-- pattern of an access control list covers them. The keys:
--
-- body                 hash: id to the part of a row that its push writes and no change touches; see rows.py
-- state                hash: id to the part that changes: a head of words for these scripts, then JSON
-- progress             hash: id to JSON, of rows that have any
-- usage                hash: id to JSON, of rows that have used up anything; see usage.lua
-- is:live              sorted set: the stamps of pending and running rows, in push order (all scores are 0)
-- is:<status>          the same for each final status
-- lane:<prio>:<queue>  sorted set: the stamps of pending rows by run_at, that is, in claim order
-- heads                sorted set: the lanes that have rows, by the run_at of their first row
-- held                 sorted set: the running rows of workers, each as owner, blank and stamp (all scores are 0)
-- leased               sorted set: the stamps of other running rows by lease_until, those without at infinity
-- workers              hash: the owner of each worker that lives to its lease_until, a blank, and JSON
-- steered              hash: '<owner> quiet' to 1 or 0, '<owner> slots' to a number: what it is asked for
-- expiring             sorted set: the ids of pending rows by expires_at
-- expired              the same, for rows that are out of their lane because they have expired
-- ended:<status>       sorted set: the ids of final rows by completed_at
-- unique               hash: the unique key of a pending or running row to its id
-- once                 hash: idempotency key to id
-- counts               hash: '<status>:<queue>' to the number of rows
-- active               hash: schedule to the number of its pending and running rows
-- fired:<id>           the seq of a schedule's task that was deleted; it expires after an hour
-- paused               set of queues
-- gates                hash: gate to its state; see gates.lua
-- gates:due            sorted set: the gates that have a next_at, by it
-- wait:<n>:<lane>:<gate>  sorted set: the stamps of the rows of a lane (n bytes long) that are parked there, by due_at
-- lines:<gate>         sorted set: the lanes with rows that are parked there, and perhaps others, by priority
-- waited               set of the gates at which rows are parked, and perhaps others
-- slots                hash: gate to the ids of the few rows that hold a slot, one a line; '' if they are in a set; and
--                      a field that is too wide for a list of fields, which the server would search from its start
-- slots:<gate>         set: the ids of the rows that hold a slot, of a gate of which there were more than a few
-- unstarted            hash: gate to the sum of the weights of those of them that are pending, where there is a rate
-- rated                set of the gates for which an operator has set a rate
-- timed                set of the gates that have a rate, and perhaps others
-- history:<seconds>    sorted set: when the periods of this length began for which there is a hash; history.lua
-- history:<seconds>:<at>  hash: what workers did in one of them
-- notes:<id>           list: the notes of a task, each with a blank between its words; see notes_add.lua
-- noted                hash: id of a task with notes to the number of its last one, and the bytes of the texts
-- steps:<id>           hash: the steps of a task; see steps.py
-- stepped              set: the ids of the tasks with steps
-- events               hash: the key of an event to its instants and its value; see steps.py
-- events:keys          sorted set: the keys of the events (all scores are 0)
-- events:until         sorted set: the keys of those that expire, by expires_at
-- waits:<key>          hash: id of a task that waits for this event to the began_at of the run that does
-- waiting              hash: id of such a task to the key of the event
-- awaited              set: the keys of events for which tasks wait, and perhaps others
-- groups               hash: group to its counts, a blank between each, and JSON; see groups.lua
-- groups:then          hash: group to JSON: the rows of its callbacks, and what a reader gets of them
-- groups:sums          hash: group to what it has used up as JSON; '<group> budget' to its budget
-- groups:inner         hash: group to JSON: the ids of the groups in it
-- groups:live          sorted set: the created_at of each group that has not ended in twenty digits, and its id
-- groups:ended         the same for those that have ended (all scores are 0)
-- groups:done          sorted set: the ids of those by ended_at
-- groups:cancelling    sorted set: the ids of those that were cancelled and have not ended (all scores are 0)
-- groups:following     hash: id of an ended task to those of its children that do not know it yet, and when, packed
-- members:<group>      list: each member as JSON
-- schedules            hash: id of a schedule to its row; see schedule_rows.py
-- schedules:due        sorted set: the ids of those that are enabled and due at a time, by it
-- schedules:written    sorted set: the ids of those that are enabled, by updated_at in seconds
-- schedules:outbox     sorted set: the ids of those whose outbox has tasks (all scores are 0)
-- audit                sorted set: what operators have changed, as JSON, by its instant
-- values, until        hash of public values, and sorted set of the keys that expire
-- format               the number of this layout (FORMAT in scripts.py)
--
-- A stamp is the row's seq in twenty digits, followed by its id. An owner is one word without '!'.
-- Instants are scores, which are exact until the year 2255. The rows are the truth: an index entry that its row does
-- not confirm is dropped when a script meets it.
--
-- A command costs more than the work on one row. So a script reads the rows of a whole batch with one command, notes
-- the changes, and writes them in flush() with one command for each key. For the same reason the rows are fields of two
-- hashes and not keys of their own, and the body is stored apart from the state, which alone is written again.
--
-- A server that has reached maxmemory refuses a command that needs memory, unless its script has written before. Verbs
-- that must work then (all but the pushes) begin with a write that needs no memory: include/when_full.lua.

-- These come first, since few functions use them: to make a function takes the server the longer, the more variables
-- that other functions use are declared behind those that it uses.
local PARKED = '4611686018427387904'  -- run_at; not exact as a number
local gated, use_gates  -- what is there for rows with gates: see use_gates()
-- What lets rows pass gates; nil in the variant of a script that is without gates.lua and declare.lua. Where a change
-- of a row needs it, that variant ends with an error: it has written nothing, and the client runs the other one.
local admission

local root, call = KEYS[1], redis.call
local sub, match, find, byte = string.sub, string.match, string.find, string.byte
local LIVE = {pending = true, running = true}
local MAX_WORDS = 4000  -- of one command: Lua's unpack() is limited to some thousands

-- Read or to be written: states by id (false: no such row), members of sorted sets (a score, or false to remove the
-- member), members of sets (whether they are in it), fields of hashes (a value, or false to remove the field).
local states, written, bodies, zsets, sets, hashes = {}, {}, {}, {}, {}, {}
-- Lanes whose first row may be another now; changes of counts by status and lane, and of active rows by schedule.
local changed_lanes, count_deltas, active_deltas = {}, {}, {}

local function call_in_chunks(command, key, words, count)
  count = count or #words
  for i = 1, count, MAX_WORDS do
    call(command, root .. key, unpack(words, i, math.min(i + MAX_WORDS - 1, count)))
  end
end

local function read_fields(key, fields)
  if #fields <= MAX_WORDS then return #fields > 0 and call('HMGET', root .. key, unpack(fields)) or {} end
  local found = {}
  for i = 1, #fields, MAX_WORDS do
    for _, value in ipairs(call('HMGET', root .. key, unpack(fields, i, math.min(i + MAX_WORDS - 1, #fields)))) do
      found[#found + 1] = value
    end
  end
  return found
end

-- Return 1 or 0 for each: whether it is in a set.
local function read_flags(key, members)
  local found = {}
  for i = 1, #members, MAX_WORDS do
    for _, flag in ipairs(call('SMISMEMBER', root .. key, unpack(members, i, math.min(i + MAX_WORDS - 1, #members)))) do
      found[#found + 1] = flag
    end
  end
  return found
end

-- Read the states of these ids, unless they are known, with one command.
local function load_states(ids)
  local missing, n = {}, 0
  for i = 1, #ids do
    if states[ids[i]] == nil then
      n = n + 1
      missing[n] = ids[i]
    end
  end
  local found = read_fields('state', missing)
  for i = 1, n do states[missing[i]] = found[i] end
end

local function set_state(id, state) states[id], written[id] = state, true end

local function set_score(key, member, score)
  local set = zsets[key]
  if not set then
    set = {}
    zsets[key] = set
  end
  set[member] = score
end

local function set_member(key, member, is_in)
  local set = sets[key]
  if set then set[member] = is_in else sets[key] = {[member] = is_in} end
end

local function set_field(key, field, value)
  hashes[key] = hashes[key] or {}
  hashes[key][field] = value
end

local function get_field(key, field)
  local value = hashes[key] and hashes[key][field]
  if value == nil then value = call('HGET', root .. key, field) end
  return value
end

-- The head of a state: status, fence, cancel flag, lease, expires_at, 1 if there are keys and 2 more if there are
-- gates, seq, run_at, completed_at, the lengths in bytes of the lane and of the names; then the lane, the names and
-- JSON. The lease is lease_until, or '@', the owner and perhaps '!alone' for a running row that its worker holds, or
-- '-'. The names of a row with a flow (with gates, in a group) begin with due_at or '-', the length of its gate or '-',
-- that of its flow, the gate, and the flow as JSON. A '!' behind the length of the flow says that the gate is all that
-- the flow has, without a rate, and that its key is the same in JSON; without it the flow is looked at. For a child
-- that waits for its parents 'w' and their number in four digits are in place of the length of a gate. Its run_at,
-- due_at, gate, waits and flow are those here, whatever the JSON behind the head says; for a row that is not parked,
-- any due_at that begins with '-' is none.
local HEAD = '^(%S+) (%-?%d+) ([01]) (%S+) (%S+) ()([0-3]) (%-?%d+) (%-?%d+) (%S+) (%d+) (%d+) ()'

-- The fields of a head, which guards and indexes depend on; nil if there is no row, or its head cannot be read.
local function parse(state)
  if not state then return nil end
  local status, fence, cancel, lease, expires, rest, keyed, seq, run_at, completed, lane, names, at = match(state, HEAD)
  if not status then return nil end
  local flow = keyed == '2' or keyed == '3'
  if flow then use_gates() end
  return {
    status = status, fence = fence, cancel = cancel, lease = lease, expires = expires, rest = rest,
    keyed = keyed == '1' or keyed == '3', flow = flow, seq = seq, run_at = run_at, completed = completed,
    lane = sub(state, at, at + lane - 1),
    names = sub(state, at + lane, at + lane + names - 1), json = at + lane + names,
  }
end

local function row_of(id)
  if states[id] == nil then load_states({id}) end
  return parse(states[id])
end

local function queue_of(lane) return sub(lane, find(lane, ':', 1, true) + 1) end

-- What is there for rows with gates is made when the first one is met, so that calls without them do not pay for it.
function use_gates()
  if gated then return end
  -- Gates with changes that are not written; those where rows were parked; those to admit, in order, and when (false:
  -- later, by a sweep); changes of unstarted weights by gate, and whether a claim is to follow: flush() leaves these
  -- weights to a later one, since many are zero then. The rows that have passed their last gate and are still written
  -- as parked rows, by lane, for this claim: at (run_at as a number), run_at, stamp and shape (gates.lua).
  -- The ids of rows that have ended, by each gate of which they had a slot. Whether gates were made due that are not
  -- touched.
  gated = {unwritten = {}, entered = {}, touched = {}, touched_at = {}, weights = {}, later = false, fresh = {},
    ended = {}, made_due = false}

  -- How rows with gates stand there, by their names without due_at: the gate (nil for none), all keys and their bounds
  -- (as text where there is one gate), the number of each key, the weight and those by key, whether one of them is a
  -- fair share, whether one has a rate, the flow as text, and the JSON of the names. Most rows that a script meets
  -- stand alike.
  local places, rated = {}, nil
  local ONE_GATE = '^{"gates":%[%["([^"\\]+)",({[^}]*})%]%]}$'  -- most flows; to decode JSON takes longer
  local ONE_GROUP = '^{"group":"([^"\\]+)"}$'

  -- The key of the gate of a flow with one, and its bounds as JSON; nil if it may have others or none.
  local function only_gate(flow) return match(flow, ONE_GATE) end

  local function decode_flow(place)
    local ok, flow = pcall(cjson.decode, place.flow)
    for _, gate in ipairs(ok and flow.gates or {}) do
      if not place.at[gate[1]] then
        place.keys[#place.keys + 1], place.bounds[#place.bounds + 1] = gate[1], gate[2]
        place.at[gate[1]] = #place.keys
        place.shared, place.rated = place.shared or gate[2].window, place.rated or gate[2].interval
      end
    end
    place.weight = ok and flow.weight or 1
    for _, pair in ipairs(ok and flow.weights or {}) do place.weights[pair[1]] = pair[2] end
    if ok then place.group, place.parents, place.children = flow.group, flow.parents, flow.children end
  end

  local function read_place(tail)
    local place = places[tail]
    if place then return place end
    local long, length, at = match(tail, '^(%S+) (%d+)!? ()')
    local behind = at + (tonumber(long) or 0)
    local flow = sub(tail, behind, behind + length - 1)
    local key, bounds = only_gate(flow)
    place = {
      gate = behind > at and sub(tail, at, behind - 1), keys = {key}, bounds = {}, text = bounds, at = {}, weight = 1,
      weights = {}, flow = flow, names = sub(tail, behind + length), shared = false, rated = false,
      waits = tonumber(match(long, '^w(%d+)')),
    }
    if key then
      place.at[key], place.shared, place.rated = 1, find(bounds, 'window', 1, true), find(bounds, 'interval', 1, true)
    else
      place.group = match(flow, ONE_GROUP)
      if not place.group then decode_flow(place) end
    end
    place.tied = place.group or place.children
    places[tail] = place
    return place
  end

  -- The bounds that a row declares for one of its gates; rows with the same text mostly get the same table.
  local read_bounds = {}
  local function declared_bounds(place, number)
    if not place.bounds[number] then
      local text = place.text
      read_bounds[text] = read_bounds[text] or cjson.decode(text)
      place.bounds[1] = read_bounds[text]
    end
    return place.bounds[number]
  end

  local function due_of(run_at, due) return run_at ~= PARKED and sub(due, 1, 1) == '-' and '-' or due end

  -- The place of a row with gates, whose due_at (or '-') is then in row.due.
  local function place_of(row)
    if not row.place then
      local due, at = match(row.names, '^(%S+) ()')
      row.due, row.tail = due_of(row.run_at, due), sub(row.names, at)
      row.place = read_place(row.tail)
    end
    return row.place
  end

  -- The names of a row with a flow behind its due_at; it is at this gate, or waits for so many parents.
  local function tail_of(gate, flow, names, waits)
    return (gate and #gate or waits and string.format('w%04d', waits) or '-') .. ' ' .. #flow .. ' ' .. (gate or '')
      .. flow .. names
  end

  -- The state of a row with gates, with another run_at and other names.
  local function with_names(row, state, run_at, names)
    return row.status .. ' ' .. row.fence .. ' ' .. row.cancel .. ' ' .. row.lease .. ' ' .. row.expires
      .. (row.keyed and ' 3 ' or ' 2 ') .. row.seq .. ' ' .. run_at .. ' ' .. row.completed .. ' ' .. #row.lane .. ' '
      .. #names .. ' ' .. row.lane .. names .. sub(state, row.json)
  end

  local function is_parked(row) return row.flow and row.status == 'pending' and row.run_at == PARKED end

  -- The keys of the gates of which a row holds a slot, and how many of them count.
  local function slots_of(row)
    if not row.flow or not LIVE[row.status] then return {}, 0 end
    local place = place_of(row)
    if not is_parked(row) then return place.keys, #place.keys end
    return place.keys, (place.gate and place.at[place.gate] or 1) - 1
  end

  -- Whether a change of a pending row to `after` would give it slots that it does not hold: has_moved() in base.py.
  function gated.has_moved(row, after)
    if row.status ~= 'pending' or after.status ~= 'pending' then return false end
    local _, n = slots_of(after)
    if n == 0 then return false end
    return is_parked(row) ~= is_parked(after) or is_parked(row) and place_of(row).gate ~= place_of(after).gate
  end

  -- Note that a gate is to be admitted at this instant, or by the next sweep.
  local function touch(key, at)
    local known = gated.touched_at[key]
    if known == nil then
      gated.touched[#gated.touched + 1], gated.touched_at[key] = key, at or false
    elseif at and (not known or at > known) then
      gated.touched_at[key] = at
    end
  end

  local function names_json(row) return row.flow and place_of(row).names or row.names end

  -- The ids of the rows that hold a slot, by gate, as far as they were read: one a line where they are few; '' where
  -- they are in a set, false where there are none. Where there are many gates, most are for few rows: for a set of its
  -- own each would need commands of its own.
  local few, few_changed = {}, {}
  local FEW, WIDE = 8, string.rep('-', 65)  -- as in push_at_gates.lua

  -- Read the slots of these gates with one command.
  local function load_slots(keys)
    local missing = {}
    for i = 1, #keys do
      if few[keys[i]] == nil then missing[#missing + 1] = keys[i] end
    end
    local texts = read_fields('slots', missing)
    for i = 1, #missing do few[missing[i]] = texts[i] end
  end

  local function few_slots(key)
    if few[key] == nil then load_slots({key}) end
    return few[key]
  end

  local function lines_of(text)
    local lines = {}
    for line in string.gmatch(text or '', '[^\n]+') do lines[#lines + 1] = line end
    return lines
  end

  local function without(text, id)
    if text == id or not text then return false end
    local whole = '\n' .. text .. '\n'
    local from = find(whole, '\n' .. id .. '\n', 1, true)
    return from and sub(sub(whole, 1, from) .. sub(whole, from + #id + 2), 2, -2) or text
  end

  local function add_slots(key, ids, count)
    local text = few_slots(key)
    if text ~= '' then
      few_changed[key] = true
      local lines, fits = lines_of(text), count <= FEW
      for i = 1, fits and count or 0 do
        text = without(text, ids[i])
        text = text and text .. '\n' .. ids[i] or ids[i]
        fits = fits and ids[i] ~= '' and not find(ids[i], '\n', 1, true)
      end
      fits = fits and #lines_of(text) <= FEW
      few[key] = fits and text or ''
      if fits then return end
      call_in_chunks('SADD', 'slots:' .. key, lines)
    end
    call_in_chunks('SADD', 'slots:' .. key, ids, count)
  end

  -- Add a row to those that hold a slot of a gate, or remove it.
  local function set_slot(key, id, add)
    local text = few_slots(key)
    if text == '' then
      set_member('slots:' .. key, id, add)
    elseif add then
      add_slots(key, {id}, 1)
    else
      few[key], few_changed[key] = without(text, id), true
    end
  end

  -- Remove the rows that have ended from those that hold slots, and write what has changed of these.
  local function write_slots()
    local keys, texts, dropped = {}, {}, {}
    for key in pairs(gated.ended) do keys[#keys + 1] = key end
    load_slots(keys)
    for key, ids in pairs(gated.ended) do
      if few[key] == '' then
        call_in_chunks('SREM', 'slots:' .. key, type(ids) == 'table' and ids or {ids})
      elseif type(ids) == 'table' then
        for i = 1, #ids do set_slot(key, ids[i], false) end
      else
        few[key], few_changed[key] = without(few[key], ids), true
      end
    end
    for key in pairs(few_changed) do
      if few[key] then
        texts[#texts + 1], texts[#texts + 2] = key, few[key]
      else
        dropped[#dropped + 1] = key
      end
    end
    call_in_chunks('HDEL', 'slots', dropped)
    if texts[1] then
      texts[#texts + 1], texts[#texts + 2] = '\n', WIDE
      call_in_chunks('HSET', 'slots', texts)
    end
    gated.ended, few_changed = {}, {}
  end

  -- How many rows hold a slot of a gate.
  function gated.count_slots(key)
    local text = few_slots(key)
    if text == '' then return call('SCARD', root .. 'slots:' .. key) end
    return text and #lines_of(text) or 0
  end

  -- The ids of rows that hold a slot of a gate: all of them, or some if there are more than so many.
  function gated.holders(key, most)
    local text = few_slots(key)
    if text ~= '' then return lines_of(text) end
    if most then return call('SRANDMEMBER', root .. 'slots:' .. key, most) end
    return call('SMEMBERS', root .. 'slots:' .. key)
  end

  local function wait_key(gate, lane) return 'wait:' .. #lane .. ':' .. lane .. ':' .. gate end

  -- Whether an operator has set bounds with a rate for a gate.
  local function is_rated(gate)
    if not rated then
      rated = {}
      for _, key in ipairs(call('SMEMBERS', root .. 'rated')) do rated[key] = true end
    end
    return rated[gate]
  end

  function gated.set_rated(gate, on)
    call(on and 'SADD' or 'SREM', root .. 'rated', gate)
    rated[gate] = on or nil
  end

  -- Whether a pending row with a slot counts in `unstarted`: where there may be a rate. Other gates need no counter.
  local function counts_unstarted(place, gate)
    return place.rated and declared_bounds(place, place.at[gate]).interval or is_rated(gate)
  end

  -- The tokens that a row takes from the rate of one of its gates.
  local function tokens(place, gate) return place.weights[gate] or place.weight end

  -- Note that a row has ended that had a slot of a gate.
  local function free_slot(key, id, at)
    local ids = gated.ended[key]
    if not ids then
      gated.ended[key] = id  -- most gates have one: no table for each
    elseif type(ids) == 'table' then
      ids[#ids + 1] = id
    else
      gated.ended[key] = {ids, id}
    end
    touch(key, at)
  end

  -- Note that a running row ends, whose names are here in its state, up to `json`. Return its place.
  function gated.note_end(id, state, at, json, ended_at)
    local place = read_place(sub(state, find(state, ' ', at, true) + 1, json - 1))
    for i = #place.keys, 1, -1 do free_slot(place.keys[i], id, ended_at) end
    return place
  end

  -- Note that a pending row has got a slot (1), or has no more (-1).
  local function add_unstarted(place, gate, sign)
    if counts_unstarted(place, gate) then
      gated.weights[gate] = (gated.weights[gate] or 0) + sign * tokens(place, gate)
    end
  end

  -- Note that a row is parked at a gate.
  local function enter_gate(gate, lane, stamp, due)
    set_score(wait_key(gate, lane), stamp, due == '-' and '0' or due)
    set_score('lines:' .. gate, lane, match(lane, '^%-?%d+'))
    set_member('waited', gate, true)
    gated.unwritten[gate], gated.entered[gate] = true, true
  end

  -- Add a row with gates to their indexes, or remove it: the slots that it holds, and where it is parked.
  local function index_gates(id, row, stamp, add)
    local place, keys, n = place_of(row), slots_of(row)
    for i = 1, n do
      set_slot(keys[i], id, add)
      if row.status == 'pending' then add_unstarted(place, keys[i], add and 1 or -1) end
      gated.unwritten[keys[i]] = true
    end
    if not is_parked(row) or not place.gate then return end
    if add then
      enter_gate(place.gate, row.lane, stamp, row.due)
    else
      set_score(wait_key(place.gate, row.lane), stamp, false)
      gated.unwritten[place.gate] = true
    end
  end

  -- What the head of a row has of its flow, as JSON.
  local function place_json(gate, flow)
    return ',"gate":' .. (gate and cjson.encode(gate) or 'null') .. ',"flow":' .. flow
  end

  local function place_as_json(run_at, due, place)
    if not place.json then
      place.json = place_json(place.gate, place.flow) .. (place.waits and ',"waits":' .. place.waits or '')
    end
    return ',"run_at":' .. run_at .. ',"due_at":' .. (due == '-' and 'null' or due) .. place.json
  end

  -- Where the parts of the state of a row are, and what it has in common with many others, by the captures of HEAD; nil
  -- unless the row has no keys, and its flow is a gate without a rate.
  function gated.shape_of(state, status, fence, cancel, lease, expires, rest, seq, run_at, long, length, at)
    local begin = at + long
    local due_to, gate_long, flow_long, gate = match(state, '^%S+() (%d+) (%d+)! ()', begin)
    if not due_to or #seq ~= 20 then return nil end
    local behind, flow = rest + 23 + #run_at, gate + gate_long
    return {
      status = status, fence = fence, cancel = cancel, lease = lease, expires = expires, rest = rest,
      head = sub(state, 1, rest + 1), seq = rest + 2, run_at = rest + 23, behind = behind,
      middle = sub(state, behind, begin - 1), lane = sub(state, at, begin - 1), due = begin, due_to = due_to,
      mark = sub(state, due_to, gate - 1), gate = gate, flow = flow, flow_to = flow + flow_long - 1,
      json = begin + length,
    }
  end

  -- Whether the parts of a state are where those of another one are. This is quicker than to match HEAD.
  function gated.has_shape(state, shape)
    local behind, due_to = shape.behind, shape.due_to
    return find(state, shape.head, 1, true) == 1 and find(state, shape.middle, behind, true) == behind
      and find(state, shape.mark, due_to, true) == due_to and byte(state, shape.run_at - 1) == 32
  end

  -- Whether there may be a rate at the gate of a row that declares none.
  local function any_rated() return is_rated('') or next(rated) end

  -- Note that a row with this place is claimed: it has started.
  function gated.note_start(place)
    if not place.rated and not any_rated() then return end
    for i = 1, #place.keys do add_unstarted(place, place.keys[i], -1) end
  end

  -- The same for a row whose names are here in its state, up to `json`. Return its gate as JSON, and its flow.
  function gated.note_claim(state, at, json)
    local long, length, begin = match(state, '^%S+ (%d+) (%d+)! ()', at)
    if long and not any_rated() then
      local behind = begin + long
      return '"' .. sub(state, begin, behind - 1) .. '"', sub(state, behind, behind + length - 1)
    end
    local place = read_place(sub(state, find(state, ' ', at, true) + 1, json - 1))
    gated.note_start(place)
    return place.gate and cjson.encode(place.gate) or 'null', place.flow
  end

  -- Touch the gates at which a row may pass when `before` becomes `after`: another one, or this one. The widest comes
  -- first: a row that waits there is before one that only now reaches it.
  function gated.touch_changed(before, after, at)
    local kept, held = {}, {}
    local keys, n = slots_of(after)
    for i = 1, n do kept[keys[i]] = true end
    keys, n = slots_of(before)
    local gate = is_parked(after) and place_of(after).gate
    local waited = gate and is_parked(before) and place_of(before).gate == gate
    if waited and before.due == after.due then gate = false end
    for i = 1, n do held[keys[i]] = not kept[keys[i]] end
    if gate and not held[gate] then touch(gate, at) end
    for i = n, 1, -1 do
      if held[keys[i]] then touch(keys[i], at) end
    end
  end

  -- Write what is not a change of a row.
  function gated.flush()
    gated.unwritten = {}
    write_slots()
    if gated.later then return end
    for gate, by in pairs(gated.weights) do
      if by ~= 0 then call('HINCRBY', root .. 'unstarted', gate, by) end
    end
    gated.weights = {}
  end

  gated.read_place = read_place
  gated.declared_bounds = declared_bounds
  gated.place_of = place_of
  gated.tail_of = tail_of
  gated.with_names = with_names
  gated.is_parked = is_parked
  gated.slots_of = slots_of
  gated.touch = touch
  gated.names_json = names_json
  gated.load_slots = load_slots
  gated.few_slots = few_slots
  gated.add_slots = add_slots
  gated.set_slot = set_slot
  gated.wait_key = wait_key
  gated.is_rated = is_rated
  gated.any_rated = any_rated
  gated.free_slot = free_slot
  gated.counts_unstarted = counts_unstarted
  gated.add_unstarted = add_unstarted
  gated.tokens = tokens
  gated.enter_gate = enter_gate
  gated.index_gates = index_gates
  gated.place_json = place_json
  gated.place_as_json = place_as_json
end

-- The names of a row: its type, and its keys where it has them.
local function names_of(row)
  local ok, names = pcall(cjson.decode, row.flow and gated.names_json(row) or row.names)
  if not ok or type(names) ~= 'table' then return {} end
  for i = 1, 4 do
    if type(names[i]) ~= 'string' then names[i] = nil end
  end
  return {type = names[1], unique = names[2], once = names[3], schedule = names[4]}
end

local function add_count(status, lane, by)
  local lanes = count_deltas[status]
  if not lanes then
    lanes = {}
    count_deltas[status] = lanes
  end
  lanes[lane] = (lanes[lane] or 0) + by
end

local function add_active(schedule, by) active_deltas[schedule] = (active_deltas[schedule] or 0) + by end

local function remove_from_lane(lane, stamp)
  set_score('lane:' .. lane, stamp, false)
  changed_lanes[lane] = true
end

-- Where a running row with this lease is found: the key of a sorted set, the member and its score.
local function held_entry(stamp, lease)
  local owner = match(lease, '^@([^!]+)')
  if owner then return 'held', owner .. ' ' .. stamp, '0' end
  return 'leased', stamp, lease == '-' and '+inf' or lease
end

local function unindex(id, row)
  local stamp = row.seq .. id
  if row.flow then gated.index_gates(id, row, stamp, false) end
  if row.status == 'pending' then
    set_score('is:live', stamp, false)
    if not row.flow or row.run_at ~= PARKED then remove_from_lane(row.lane, stamp) end
    if row.expires ~= '-' then
      set_score('expiring', id, false)
      set_score('expired', id, false)
    end
  elseif row.status == 'running' then
    set_score('is:live', stamp, false)
    local key, member = held_entry(stamp, row.lease)
    set_score(key, member, false)
  else
    set_score('is:' .. row.status, stamp, false)
    set_score('ended:' .. row.status, id, false)
  end
  if row.keyed and LIVE[row.status] then
    local names = names_of(row)
    if names.unique and get_field('unique', names.unique) == id then set_field('unique', names.unique, false) end
    if names.schedule then add_active(names.schedule, -1) end
  end
  add_count(row.status, row.lane, -1)
end

local function index(id, row)
  local stamp = row.seq .. id
  if row.flow then gated.index_gates(id, row, stamp, true) end
  if row.status == 'pending' then
    set_score('is:live', stamp, '0')
    if not row.flow or row.run_at ~= PARKED then
      set_score('lane:' .. row.lane, stamp, row.run_at)
      changed_lanes[row.lane] = true
    end
    if row.expires ~= '-' then set_score('expiring', id, row.expires) end
  elseif row.status == 'running' then
    set_score('is:live', stamp, '0')
    set_score(held_entry(stamp, row.lease))
  else
    set_score('is:' .. row.status, stamp, '0')
    set_score('ended:' .. row.status, id, row.completed == '-' and '+inf' or row.completed)
  end
  if row.keyed and LIVE[row.status] then
    local names = names_of(row)
    if names.unique then set_field('unique', names.unique, id) end
    if names.schedule then add_active(names.schedule, 1) end
  end
  add_count(row.status, row.lane, 1)
end

local function add_to_counter(key, field, by)
  if by ~= 0 and call('HINCRBY', root .. key, field, by) <= 0 then call('HDEL', root .. key, field) end
end

-- Write what was noted; first what needs no memory. States stay known.
local function flush()
  local rows, r, deleted, adding = {}, 0, {}, {}
  for id in pairs(written) do
    if states[id] then
      rows[r + 1], rows[r + 2] = id, states[id]
      r = r + 2
    else
      deleted[#deleted + 1] = id
    end
  end
  for key, members in pairs(zsets) do
    local added, a, removed, n = nil, 0, nil, 0
    for member, score in pairs(members) do
      if score then
        added = added or {}
        added[a + 1], added[a + 2] = score, member
        a = a + 2
      else
        n = n + 1
        removed = removed or {}
        removed[n] = member
      end
    end
    if removed then call_in_chunks('ZREM', key, removed) end
    adding[key] = added
  end
  local joining = {}
  for key, members in pairs(sets) do
    local joined, left = nil, nil
    for member, is_in in pairs(members) do
      if is_in then
        joined = joined or {}
        joined[#joined + 1] = member
      else
        left = left or {}
        left[#left + 1] = member
      end
    end
    if left then call_in_chunks('SREM', key, left) end
    joining[key] = joined
  end
  call_in_chunks('HDEL', 'state', deleted)
  call_in_chunks('HDEL', 'body', deleted)
  call_in_chunks('HDEL', 'progress', deleted)
  call_in_chunks('HDEL', 'usage', deleted)
  if deleted[1] and call('EXISTS', root .. 'noted') == 1 then
    call_in_chunks('HDEL', 'noted', deleted)
    for _, id in ipairs(deleted) do call('UNLINK', root .. 'notes:' .. id) end
  end
  if deleted[1] and call('EXISTS', root .. 'stepped') == 1 then
    call_in_chunks('SREM', 'stepped', deleted)
    for _, id in ipairs(deleted) do
      call('UNLINK', root .. 'steps:' .. id)
      local key = call('HGET', root .. 'waiting', id)
      if key then
        call('HDEL', root .. 'waits:' .. key, id)
        if call('EXISTS', root .. 'waits:' .. key) == 0 then call('SREM', root .. 'awaited', key) end
      end
    end
    call_in_chunks('HDEL', 'waiting', deleted)
  end
  call_in_chunks('HSET', 'state', rows)
  call_in_chunks('HSET', 'body', bodies)
  for key, added in pairs(adding) do call_in_chunks('ZADD', key, added) end
  for key, joined in pairs(joining) do call_in_chunks('SADD', key, joined) end
  for key, fields in pairs(hashes) do
    local values, dropped = {}, {}
    for field, value in pairs(fields) do
      if value then
        values[#values + 1] = field
        values[#values + 1] = value
      else
        dropped[#dropped + 1] = field
      end
    end
    call_in_chunks('HDEL', key, dropped)
    call_in_chunks('HSET', key, values)
  end
  for lane in pairs(changed_lanes) do
    local head = call('ZRANGE', root .. 'lane:' .. lane, 0, 0, 'WITHSCORES')
    if head[1] then call('ZADD', root .. 'heads', head[2], lane) else call('ZREM', root .. 'heads', lane) end
  end
  for status, lanes in pairs(count_deltas) do
    local queues = {}
    for lane, by in pairs(lanes) do queues[queue_of(lane)] = (queues[queue_of(lane)] or 0) + by end
    for queue, by in pairs(queues) do add_to_counter('counts', status .. ':' .. queue, by) end
  end
  for schedule, by in pairs(active_deltas) do add_to_counter('active', schedule, by) end
  written, bodies, zsets, sets, hashes, changed_lanes, count_deltas, active_deltas = {}, {}, {}, {}, {}, {}, {}, {}
  if gated then gated.flush() end
end

-- Send a hint ('' for none) to other processes; it is no error if it is lost. With `gates`, another one says that the
-- time has changed at which a gate may let a row pass; the sender is that of the first.
local function publish(hint, gates)
  if hint ~= '' then redis.pcall('PUBLISH', root .. 'hints', hint) end
  local sender = gates and match(hint, '^%["%w*",')
  if sender then redis.pcall('PUBLISH', root .. 'hints', sender .. '{"gates":[]}]') end
end

-- The id of the row that has this key ('unique' or 'once'), or nil.
local function holder(kind, key)
  local id = key and get_field(kind, key)
  local row = id and row_of(id)
  if row and (kind == 'once' or LIVE[row.status]) then return id end
end

-- The fields of the head as the end of the JSON of a state, for an answer.
local function head_as_json(row)
  return ',"status":"' .. row.status .. '","fence":' .. row.fence
    .. (tonumber(row.lease) and ',"lease_until":' .. row.lease or '')
    .. (row.cancel == '1' and ',"cancel_requested":true' or '')
    .. (row.flow and gated.place_as_json(row.run_at, gated.place_of(row) and row.due, row.place) or '')
end

-- Return rows as they are answered, four words each: id, body, state as JSON, progress. A row that does not exist has
-- no state. json_states are the states as JSON where the caller has them already.
local function read_rows(ids, json_states)
  load_states(ids)
  local stored = read_fields('body', ids)
  local progress = call('HLEN', root .. 'progress') > 0 and read_fields('progress', ids)
  local usage = call('HLEN', root .. 'usage') > 0 and read_fields('usage', ids)
  local answer, n = {}, 0
  for i, id in ipairs(ids) do
    local state = json_states and json_states[i]
    if not state then
      local row = parse(states[id])
      state = row and sub(states[id], row.json) .. head_as_json(row) or states[id] or ''
    end
    if usage and usage[i] and state ~= '' then state = state .. ',"usage":' .. usage[i] end
    answer[n + 1], answer[n + 2], answer[n + 3] = id, stored[i] or '', state
    answer[n + 4] = progress and progress[i] and ',"progress":' .. progress[i] or ''
    n = n + 4
  end
  return answer
end

-- The state with other values at the beginning of its head.
local function with_head(row, state, status, fence, cancel, lease)
  return status .. ' ' .. fence .. ' ' .. cancel .. ' ' .. lease .. ' ' .. row.expires .. ' ' .. sub(state, row.rest)
end
