-- The indexes of rows: notes which sets and hashes a row enters and leaves.
-- include: flush

-- The keys of a row that has any.
local function names_of(row)
  local ok, names = pcall(cjson.decode, row.names)
  if not ok or type(names) ~= 'table' then return {} end
  for i = 1, 3 do
    if type(names[i]) ~= 'string' then names[i] = nil end
  end
  return {unique = names[1], once = names[2], schedule = names[3]}
end

local function add_count(status, lane, by)
  local lanes = count_deltas[status] or {}
  count_deltas[status] = lanes
  lanes[lane] = (lanes[lane] or 0) + by
end

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

-- Put a row into the indexes, or remove it.
local function index(id, row, enters)
  local stamp = row.seq .. id

  local function put(key, member, score) set_score(key, member, enters and score) end

  if row.status == 'pending' then
    put('is:live', stamp, '0')
    if not row.flow or row.run_at ~= PARKED then
      put('lane:' .. row.lane, stamp, row.run_at)
      changed_lanes[row.lane] = true
    end
    if row.expires ~= '-' then
      put('expiring', id, row.expires)
      if not enters then set_score('expired', id, false) end
    end
  elseif row.status == 'running' then
    put('is:live', stamp, '0')
    put(held_entry(stamp, row.lease))
  else
    put('is:' .. row.status, stamp, '0')
    put('ended:' .. row.status, id, row.completed == '-' and '+inf' or row.completed)
  end
  if row.keyed and LIVE[row.status] then
    local names = names_of(row)
    if names.unique and (enters or get_field('unique', names.unique) == id) then
      set_field('unique', names.unique, enters and id)
    end
    local fired = names.schedule
    if fired then active_deltas[fired] = (active_deltas[fired] or 0) + (enters and 1 or -1) end
  end
  add_count(row.status, row.lane, enters and 1 or -1)
end

-- The id of the row that has this key ('unique' or 'once'), or nil.
local function holder(kind, key)
  local id = key and get_field(kind, key)
  local row = id and row_of(id)
  if row and (kind == 'once' or LIVE[row.status]) then return id end
end
