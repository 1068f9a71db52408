// Clients that exist, as black boxes: several of one library edit one document at random moments while whoever started
// this cuts their sockets and kills the server. In the end all have the same, with every edit that any of them made, and
// so has one that comes only then. Says `edits` once they edit, and `converged N` or what is missing.
//
//   node real-clients.cjs yjs DIR URL SECONDS       URL ends before the document's id
//   node real-clients.cjs tldraw DIR URL SECONDS
//
// DIR is where the library is installed; the document's id is the last argument.
'use strict'
const path = require('node:path')

const [, , kind, dir, url, seconds, id] = process.argv
const from = (name) => require(require.resolve(name, { paths: [path.resolve(dir)] }))
const CLIENTS = 3
const PATIENCE_MS = 90_000

const WebSocket = from('ws')
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

// What the library takes for a browser's.
globalThis.WebSocket = WebSocket
const nothing = { addEventListener() {}, removeEventListener() {} }
globalThis.window ??= Object.assign(globalThis, nothing)
globalThis.document ??= { hidden: false, ...nothing }
globalThis.navigator ??= {}
globalThis.devicePixelRatio ??= 1
globalThis.requestAnimationFrame ??= (done) => setTimeout(() => done(performance.now()), 16)
globalThis.cancelAnimationFrame ??= clearTimeout

function yjsClient() {
	const Y = from('yjs')
	const { WebsocketProvider } = from('y-websocket')
	const doc = new Y.Doc()
	const provider = new WebsocketProvider(url, id, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
	const marks = doc.getArray('marks')
	const text = doc.getText('text')
	return {
		edit: (mark) =>
			doc.transact(() => {
				marks.push([mark])
				const at = Math.floor(Math.random() * (text.length + 1))
				text.insert(at, mark)
				if (text.length > 400) text.delete(0, 100)
			}),
		marks: () => marks.toArray(),
		content: () => JSON.stringify([marks.toArray(), text.toString()]),
		isReady: () => provider.synced,
		close: () => provider.destroy(),
	}
}

function tldrawClient(number) {
	const { TLSyncClient, ClientWebSocketAdapter } = from('@tldraw/sync-core')
	const { createTLSchema } = from('@tldraw/tlschema')
	const { Store } = from('@tldraw/store')
	const { atom } = from('@tldraw/state')
	const assets = { upload: async () => ({ src: '' }), resolve: () => null, remove: async () => {} }
	const store = new Store({ schema: createTLSchema(), props: { defaultName: '', assets, onMount() {} } })
	const socket = new ClientWebSocketAdapter(() => `${url}/${id}?sessionId=tab-${number}-${process.pid}&storeId=s`)
	let ready = false
	const client = new TLSyncClient({
		store,
		socket,
		presence: atom('presence', null),
		onLoad: () => (ready = true),
		onSyncError: (reason) => {
			console.log(`sync error ${reason}`)
			process.exit(1)
		},
	})
	const documents = () =>
		store
			.allRecords()
			.filter((record) => store.schema.types[record.typeName].scope === 'document')
			.sort((one, other) => (one.id < other.id ? -1 : 1))
	const page = (mark) => ({ id: `page:m${mark}`, typeName: 'page', name: mark, index: 'a2', meta: {} })
	return {
		edit: (mark) => {
			store.put([page(mark)])
			const all = documents().filter((record) => record.id.startsWith('page:m'))
			const other = all[Math.floor(Math.random() * all.length)]
			store.update(other.id, (record) => ({ ...record, name: `${record.name}+`.slice(-60) }))
		},
		marks: () => documents().map((record) => record.id.replace(/^page:m/, '')),
		content: () => JSON.stringify(documents().map(sorted)),
		isReady: () => ready && client.isConnectedToRoom,
		close: () => (client.close(), socket.close()),
	}
}

function sorted(value) {
	if (Array.isArray(value)) return value.map(sorted)
	if (value === null || typeof value !== 'object') return value
	return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]))
}

const open = kind === 'yjs' ? yjsClient : tldrawClient

async function until(what, holds) {
	const deadline = Date.now() + PATIENCE_MS
	for (let why; (why = holds()) !== undefined; await pause(50)) {
		if (Date.now() > deadline) {
			console.log(`not within ${PATIENCE_MS} ms: ${what}: ${why}`)
			process.exit(1)
		}
	}
}

async function main() {
	const clients = Array.from({ length: CLIENTS }, (_, number) => open(number))
	await until('all are in the document', () => (clients.every((client) => client.isReady()) ? undefined : 'not yet'))
	console.log('edits')
	const made = []
	const end = Date.now() + Number(seconds) * 1000
	while (Date.now() < end) {
		const number = Math.floor(Math.random() * CLIENTS)
		const mark = `${number}-${made.length}`
		clients[number].edit(mark)
		made.push(mark)
		await pause(Math.random() * 60)
	}
	const differs = (client) => {
		if (!client.isReady()) return 'one is not in the document'
		const has = new Set(client.marks())
		const missing = made.filter((mark) => !has.has(mark))
		if (missing.length > 0) return `${missing.length} edits are missing, such as ${missing[0]}`
		if (client.content() !== clients[0].content()) return 'two have another document'
	}
	await until('all have the same', () => clients.map(differs).find((why) => why !== undefined))
	const late = open(CLIENTS)
	await until('one that comes late has it too', () => differs(late))
	console.log(`converged ${made.length}`)
	process.exit(0)
}

main()
