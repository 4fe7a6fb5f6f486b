/* The other side of the protocol on Windows, in C and with nothing but the system: an example of a client and a server.
   A peer for others to use does more: it opens pipes with FILE_FLAG_OVERLAPPED, waits for the end of each call only so
   long, and then gives it up with CancelIoEx. As a server it serves many clients at once.

     peer send PIPE TYPE TEXT...    sends a message for each TEXT, all before it reads; prints the answers
     peer leave PIPE TYPE TEXT...   the same, but closes the pipe instead of reading
     peer wrong PIPE TYPE TEXT...   the same as send, with a wrong token and to the end of the connection
     peer long PIPE                 sends a line that is too long; prints the answers to the end of the connection
     peer serve PIPE                owns the pipe and prints each message, until standard input ends

   x86_64-w64-mingw32-gcc -std=c11 -municode -Wall -Wextra -Werror peer.c -lbcrypt -ladvapi32 -o peer.exe */
#include <windows.h>

#include <aclapi.h>
#include <bcrypt.h>
#include <limits.h>
#include <sddl.h>
#include <stdarg.h>

#include "json.h"

enum {
    FRAME_MAX = 65536, /* Bytes of a line, its newline not counted. */
    FILE_MAX = 4096,   /* Bytes of a capability file. */
    TOKEN_LEN = 64,
    PATH_LEN = 2048,   /* More than any path here, also as a JSON string. */
};

static void fail(const char *what)
{
    fprintf(stderr, "cannot %s (error %lu)\n", what, GetLastError());
    exit(2);
}

static PSID own_user(void)
{
    static union { TOKEN_USER user; BYTE space[sizeof(TOKEN_USER) + SECURITY_MAX_SID_SIZE]; } found;
    DWORD len;
    if (!GetTokenInformation(GetCurrentProcessToken(), TokenUser, &found, sizeof found, &len))
        fail("tell the own user");
    return found.user.User.Sid;
}

static bool is_ours(HANDLE object, SE_OBJECT_TYPE kind)
{
    PSID owner;
    PSECURITY_DESCRIPTOR space;
    if (GetSecurityInfo(object, kind, OWNER_SECURITY_INFORMATION, &owner, NULL, NULL, NULL, &space) != ERROR_SUCCESS)
        return false;
    bool is_same = owner != NULL && EqualSid(owner, own_user());
    LocalFree(space);
    return is_same;
}

/* What gives `rights` to us alone. The owner is named, or all administrators would own what one of them makes. */
static SECURITY_ATTRIBUTES *owner_only(const wchar_t *rights)
{
    static SECURITY_ATTRIBUTES only = {sizeof only, NULL, FALSE};
    wchar_t *sid, text[512];
    LocalFree(only.lpSecurityDescriptor);
    if (!ConvertSidToStringSidW(own_user(), &sid))
        fail("name the own user");
    swprintf(text, 512, L"O:%lsD:P(A;%ls;;;%ls)", sid, rights, sid);
    LocalFree(sid);
    if (!ConvertStringSecurityDescriptorToSecurityDescriptorW(text, SDDL_REVISION_1, &only.lpSecurityDescriptor, NULL))
        fail("make a security descriptor");
    return &only;
}

static void hex(const BYTE bytes[TOKEN_LEN / 2], char digits[TOKEN_LEN + 1])
{
    for (int n = 0; n < TOKEN_LEN / 2; n++)
        snprintf(digits + 2 * n, 3, "%02x", bytes[n]);
}

/* The path of the capability file of `pipe`, named after the hash of its path. `make` makes directories above it. */
static void capability_file(const char *pipe, wchar_t path[PATH_LEN], bool make)
{
    wchar_t home[PATH_LEN / 2] = L"";
    BYTE digest[TOKEN_LEN / 2];
    char digits[TOKEN_LEN + 1];
    BCRYPT_ALG_HANDLE sha256;
    bool is_named = GetEnvironmentVariableW(L"CLAUDE_CONFIG_DIR", home, PATH_LEN / 2) != 0;
    if (!is_named)
        GetEnvironmentVariableW(L"USERPROFILE", home, PATH_LEN / 2);
    if (home[0] == 0)
        fail("tell the config home");
    if (BCryptOpenAlgorithmProvider(&sha256, BCRYPT_SHA256_ALGORITHM, NULL, 0) != 0 ||
        BCryptHash(sha256, NULL, 0, (PUCHAR)pipe, (ULONG)strlen(pipe), digest, sizeof digest) != 0)
        fail("hash the path");
    BCryptCloseAlgorithmProvider(sha256, 0);
    hex(digest, digits);
    swprintf(path, PATH_LEN, L"%ls%ls", home, is_named ? L"" : L"\\.claude");
    if (make)
        CreateDirectoryW(path, owner_only(L"OICI;FA"));
    wcscat(path, L"\\messaging-capabilities");
    if (make)
        CreateDirectoryW(path, owner_only(L"OICI;FA"));
    swprintf(path + wcslen(path), PATH_LEN / 4, L"\\%hs.json", digits);
}

/* The token that is published for `pipe`, from a file that is ours. A peer for others to use also refuses one to which
   other users have access. */
static bool read_token(const char *pipe, char token[TOKEN_LEN + 8])
{
    wchar_t name[PATH_LEN];
    char text[FILE_MAX + 1] = "", path[PATH_LEN];
    DWORD len = 0, flags = FILE_FLAG_OPEN_REPARSE_POINT | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION;
    BY_HANDLE_FILE_INFORMATION facts;
    capability_file(pipe, name, false);
    HANDLE file = CreateFileW(name, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                              OPEN_EXISTING, flags, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return false;
    bool is_good = GetFileInformationByHandle(file, &facts) && facts.nFileSizeHigh == 0 &&
                   facts.nFileSizeLow <= FILE_MAX && !(facts.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) &&
                   is_ours(file, SE_FILE_OBJECT) && ReadFile(file, text, FILE_MAX, &len, NULL);
    CloseHandle(file);
    return is_good && skip_value(text) != NULL && read_string(member(text, "socketPath"), path, sizeof path) &&
           strcmp(path, pipe) == 0 && read_string(member(text, "authToken"), token, TOKEN_LEN + 8) &&
           strlen(token) == TOKEN_LEN;
}

/* Publishes a token, a new one with each start. A reader finds all of the file or nothing. */
static void publish(const char *pipe, char token[TOKEN_LEN + 1])
{
    wchar_t name[PATH_LEN], temporary[PATH_LEN];
    char text[FILE_MAX], path[PATH_LEN];
    BYTE random[TOKEN_LEN / 2];
    DWORD len;
    if (BCryptGenRandom(NULL, random, sizeof random, BCRYPT_USE_SYSTEM_PREFERRED_RNG) != 0)
        fail("draw a token");
    hex(random, token);
    capability_file(pipe, name, true);
    swprintf(temporary, PATH_LEN, L"%ls.%lu.tmp", name, GetCurrentProcessId());
    snprintf(text, sizeof text, "{\"socketPath\":%s,\"authToken\":\"%s\"}\n", quote(pipe, path), token);
    HANDLE file = CreateFileW(temporary, GENERIC_WRITE, 0, owner_only(L";FA"), CREATE_NEW, 0, NULL);
    if (file == INVALID_HANDLE_VALUE || !WriteFile(file, text, (DWORD)strlen(text), &len, NULL) ||
        !CloseHandle(file) || !MoveFileExW(temporary, name, MOVEFILE_REPLACE_EXISTING))
        fail("publish the token");
}

struct connection {
    HANDLE pipe;
    size_t len, taken; /* Bytes read, and those of them that belong to the last line. */
    char bytes[FRAME_MAX + 1];
};

static const char *now(void)
{
    static char text[64];
    SYSTEMTIME t;
    GetSystemTime(&t);
    snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", t.wYear, t.wMonth, t.wDay, t.wHour,
             t.wMinute, t.wSecond, t.wMilliseconds);
    return text;
}

/* The next line, with a 0 in place of its newline, is in `c->bytes`; false at the end. If it is too long, `c->taken`
   is 0. That a read got nothing is not the end: the other side can write nothing. The end is an error. */
static bool read_line(struct connection *c)
{
    char *end;
    c->len -= c->taken;
    memmove(c->bytes, c->bytes + c->taken, c->len);
    c->taken = 0;
    while ((end = memchr(c->bytes, '\n', c->len)) == NULL) {
        DWORD len;
        if (c->len > FRAME_MAX)
            return true;
        if (!ReadFile(c->pipe, c->bytes + c->len, (DWORD)(sizeof c->bytes - c->len), &len, NULL))
            return false;
        c->len += len;
    }
    *end = 0;
    c->taken = (size_t)(end + 1 - c->bytes);
    return true;
}

/* If this fails, the other side has gone, but what it wrote before can still be read. */
static void write_line(struct connection *c, const char *format, ...)
{
    static char line[2 * FRAME_MAX + 2];
    DWORD len;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    WriteFile(c->pipe, line, (DWORD)strlen(line), &len, NULL);
}

/* Opens the pipe. Its server learns who we are, but cannot act as us. */
static void open_pipe(struct connection *c, const wchar_t *path)
{
    const DWORD access = GENERIC_READ | GENERIC_WRITE, flags = SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION;
    while ((c->pipe = CreateFileW(path, access, 0, NULL, OPEN_EXISTING, flags, NULL)) == INVALID_HANDLE_VALUE) {
        if (GetLastError() != ERROR_PIPE_BUSY)
            fail("open the pipe");
        puts("(busy)");
        /* Each instance has a client. When one is free, another client may be faster. */
        if (!WaitNamedPipeW(path, 60000))
            fail("get an instance of the pipe");
    }
    /* Before it gets a token. */
    if (!is_ours(c->pipe, SE_KERNEL_OBJECT))
        fail("trust the owner of the pipe");
}

static void send_message(struct connection *c, const char *type, const char *text, const char *token)
{
    enum { QUOTED_MAX = 6 * 3 * 32768 }; /* More than a command line can hold. */
    static char quoted_type[QUOTED_MAX], quoted_text[QUOTED_MAX];
    size_t len = strlen(quote(type, quoted_type)) + strlen(quote(text, quoted_text));
    static const char format[] = "{\"type\":%s,\"data\":%s,\"ts\":\"%s\",\"meta\":{\"authToken\":\"%s\"}}\n";
    if (len + sizeof format + strlen(now()) + TOKEN_LEN > FRAME_MAX)
        fail("send so long a message");
    write_line(c, format, quoted_type, quoted_text, now(), token);
}

/* Prints the answers until there are `wanted` or the server closes. They have all been asked for before, which is good
   for some hundred messages: a server reads no more when 64 KiB of answers are unread. */
static int print_answers(struct connection *c, int wanted)
{
    bool is_there = true;
    for (; is_there && wanted > 0; wanted--) {
        is_there = read_line(c);
        puts(is_there ? c->bytes : "(end)");
    }
    return !is_there;
}

static const wchar_t *pipe_path;
static const char *pipe_name; /* The same in UTF-8. */
static char own_token[TOKEN_LEN + 8];

/* The caller closes the pipe next. What is in it stays there for the client; DisconnectNamedPipe would take it away. */
static bool refuse(struct connection *c, const char *why)
{
    write_line(c, "{\"type\":\"error\",\"data\":\"%s\",\"ts\":\"%s\"}\n", why, now());
    return false;
}

/* Whether it is the own token, in a time that does not tell how much of it is right. */
static bool is_own_token(const char given[TOKEN_LEN + 8])
{
    int difference = 0;
    for (int n = 0; n <= TOKEN_LEN; n++)
        difference |= given[n] ^ own_token[n];
    return difference == 0;
}

/* Answers the line that was read, and prints it if it is a message. False if it was the last one. */
static bool take_line(struct connection *c)
{
    static unsigned accepted;
    char token[TOKEN_LEN + 8] = {0}, type[32], text[PATH_LEN];
    const char *line = skip_blanks(c->bytes), *end;
    if (c->taken == 0) {
        snprintf(text, sizeof text, "NDJSON frame exceeded %d bytes (%u)", FRAME_MAX, (unsigned)c->len);
        return refuse(c, text);
    }
    if (line == c->bytes + c->taken - 1)
        return true;
    if ((end = skip_value(line)) == NULL || skip_blanks(end) != c->bytes + c->taken - 1 ||
        MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, line, -1, NULL, 0) == 0)
        return refuse(c, "invalid frame");
    if (!read_string(member(member(line, "meta"), "authToken"), token, sizeof token) || !is_own_token(token))
        return refuse(c, "unauthorized");
    const char *kind = member(line, "type"), *data = member(line, "data");
    if (kind == NULL || *kind != '"')
        return refuse(c, "invalid frame");
    if (read_string(kind, type, sizeof type) && strcmp(type, "ping") == 0) {
        write_line(c, "{\"type\":\"pong\",\"from\":%s,\"ts\":\"%s\"}\n", quote(pipe_name, text), now());
        return true;
    }
    data = data == NULL ? "null" : data;
    printf("{\"id\":\"uds-%u\",\"type\":%.*s,\"data\":%.*s}\n", ++accepted, (int)(skip_value(kind) - kind), kind,
           (int)(skip_value(data) - data), data);
    static const char ok[] = "{\"type\":\"response\",\"data\":\"ok\",\"ts\":\"%s\",\"meta\":{\"id\":\"uds-%u\"}}\n";
    write_line(c, ok, now(), accepted);
    return true;
}

/* No other user can open it, and no other machine. The first instance is refused if the name is taken. */
static HANDLE new_instance(DWORD first)
{
    HANDLE pipe = CreateNamedPipeW(pipe_path, PIPE_ACCESS_DUPLEX | first, PIPE_TYPE_BYTE | PIPE_REJECT_REMOTE_CLIENTS,
                                   PIPE_UNLIMITED_INSTANCES, FRAME_MAX, FRAME_MAX, 0, owner_only(L";GA"));
    if (pipe == INVALID_HANDLE_VALUE)
        fail("make an instance of the pipe");
    return pipe;
}

/* Ends the server with its input, and removes what was published if it is still ours. */
static DWORD WINAPI stop_at_end_of_input(void *unused)
{
    wchar_t name[PATH_LEN];
    char byte, found[TOKEN_LEN + 8];
    DWORD len;
    while (ReadFile(GetStdHandle(STD_INPUT_HANDLE), &byte, 1, &len, unused) && len > 0)
        continue;
    capability_file(pipe_name, name, false);
    if (read_token(pipe_name, found) && is_own_token(found))
        DeleteFileW(name);
    ExitProcess(0);
}

/* One client after the other. */
static void serve(struct connection *c)
{
    char quoted[PATH_LEN];
    HANDLE next = new_instance(FILE_FLAG_FIRST_PIPE_INSTANCE);
    publish(pipe_name, own_token);
    printf("{\"event\":\"listening\",\"socket\":%s}\n", quote(pipe_name, quoted));
    CloseHandle(CreateThread(NULL, 0, stop_at_end_of_input, NULL, 0, NULL));
    for (;;) {
        c->pipe = next;
        c->len = c->taken = 0;
        /* It fails if a client was faster. That one may have gone, too; what it wrote is there. */
        ConnectNamedPipe(c->pipe, NULL);
        /* Before this client is served, so that the next one finds an instance and the name stays ours. */
        next = new_instance(0);
        while (read_line(c) && take_line(c))
            continue;
        CloseHandle(c->pipe);
    }
}

static char *utf8(const wchar_t *wide)
{
    int len = WideCharToMultiByte(CP_UTF8, 0, wide, -1, NULL, 0, NULL, NULL);
    char *text = malloc((size_t)len);
    if (text == NULL || WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, len, NULL, NULL) == 0)
        fail("read an argument");
    return text;
}

int wmain(int argc, wchar_t **argv)
{
    static struct connection c;
    static char too_long[2 * FRAME_MAX];
    const char *mode = argc < 3 ? "" : utf8(argv[1]);
    bool is_long = strcmp(mode, "long") == 0, is_wrong = strcmp(mode, "wrong") == 0;
    bool leaves = strcmp(mode, "leave") == 0, serves = strcmp(mode, "serve") == 0;
    if (!serves && !is_long && (argc < 5 || !(is_wrong || leaves || strcmp(mode, "send") == 0)))
        fail("do this: peer serve|long PIPE, or peer send|leave|wrong PIPE TYPE TEXT...");
    /* Any other path could lead to another machine. */
    pipe_path = argv[2] + (wcsncmp(argv[2], L"uds:", 4) == 0 ? 4 : 0);
    if (_wcsnicmp(pipe_path, L"\\\\.\\pipe\\", 9) != 0 || wcschr(pipe_path + 9, L'\\') || wcslen(pipe_path) > 256)
        fail("use what is not \\\\.\\pipe\\NAME");
    pipe_name = utf8(pipe_path);
    setvbuf(stdout, NULL, _IONBF, 0);
    if (serves)
        serve(&c);
    if (!read_token(pipe_name, own_token))
        fail("find a token for the pipe");
    open_pipe(&c, pipe_path);
    memset(too_long, 'x', sizeof too_long - 1);
    if (is_long)
        write_line(&c, "%s\n", too_long);
    for (int n = 4; n < argc; n++)
        send_message(&c, utf8(argv[3]), utf8(argv[n]), is_wrong ? "0000" : own_token);
    int status = leaves ? 0 : print_answers(&c, is_long || is_wrong ? INT_MAX : argc - 4);
    CloseHandle(c.pipe);
    return status;
}
