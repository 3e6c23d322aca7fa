-- Rows with a flow (with gates, in a group): what their heads say of it. Only commit.lua changes it, as it is told.

-- The place of a row with a flow: the gate at which it is (false if at none), for how many parents it waits, the flow
-- as text, and the JSON of its names.
local function place_of(row)
  if not row.place then
    local due, long, length, at = match(row.names, '^(%S+) (%S+) (%d+) ()')
    local behind = at + (tonumber(long) or 0)
    row.due = row.run_at ~= PARKED and sub(due, 1, 1) == '-' and '-' or due
    row.place = {
      gate = behind > at and sub(row.names, at, behind - 1), waits = tonumber(match(long, '^w(%d+)')),
      flow = sub(row.names, behind, behind + length - 1), names = sub(row.names, behind + length),
    }
  end
  return row.place
end

local function names_json(row) return row.flow and place_of(row).names or row.names end

local function flow_as_json(row)
  local place = place_of(row)
  return ',"run_at":' .. row.run_at .. ',"due_at":' .. (row.due == '-' and 'null' or row.due)
    .. ',"gate":' .. (place.gate and cjson.encode(place.gate) or 'null') .. ',"flow":' .. place.flow
    .. (place.waits and ',"waits":' .. place.waits or '')
end
