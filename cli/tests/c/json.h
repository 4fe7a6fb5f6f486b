/* The little of JSON that peer.c needs. A peer for others to use takes a library that refuses all that is not JSON. */
#include <windows.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *skip_blanks(const char *p) { return p + strspn(p, " \t\r\n"); }

/* What follows the value at `p`, NULL if it has no end. Only strings and brackets are looked at. */
static const char *skip_value(const char *p)
{
    int depth = 0;
    if (*p == 0 || strchr("\"{[", *p) == NULL)
        return p + strcspn(p, ",]} \t\r\n");
    do {
        if (*p == '"')
            while (*++p != '"')
                if ((unsigned char)*p < 0x20 || (*p == '\\' && *++p == 0))
                    return NULL;
        if (*p == 0)
            return NULL;
        depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
        p++;
    } while (depth > 0);
    return p;
}

/* Writes the string at `p`, which has an end, to `out` without its escapes. False if it is none, or finds no room. */
static bool read_string(const char *p, char *out, size_t room)
{
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (p == NULL || *p != '"')
        return false;
    for (p++; *p != '"'; p++) {
        const char *escape;
        int len = 1;
        if (room < 8)
            return false;
        if (*p != '\\') {
            *out = *p;
        } else if (*++p != 'u') {
            if ((escape = strchr(escapes, *p)) == NULL)
                return false;
            *out = meant[escape - escapes];
        } else { /* One character can be two of them: \ud83c\udf5e. */
            wchar_t units[2];
            int count = 0;
            do {
                if (strspn(p + 1, "0123456789abcdefABCDEF") < 4)
                    return false;
                units[count++] = (wchar_t)strtoul((char[5]){p[1], p[2], p[3], p[4]}, NULL, 16);
                p += 4;
            } while (count < 2 && IS_HIGH_SURROGATE(units[0]) && p[1] == '\\' && p[2] == 'u' && (p += 2) != NULL);
            len = WideCharToMultiByte(CP_UTF8, 0, units, count, out, 6, NULL, NULL);
        }
        out += len;
        room -= (size_t)len;
    }
    *out = 0;
    return true;
}

/* The value of the member `name` of the object at `p`, which has an end; NULL if there is none. */
static const char *member(const char *p, const char *name)
{
    char key[32];
    if (p == NULL || *p != '{')
        return NULL;
    do {
        const char *colon = skip_blanks(p + 1);
        bool is_it = read_string(colon, key, sizeof key) && strcmp(key, name) == 0;
        if (*colon != '"' || *(colon = skip_blanks(skip_value(colon))) != ':')
            return NULL;
        p = skip_blanks(colon + 1);
        if (is_it)
            return p;
        p = skip_blanks(skip_value(p));
    } while (*p == ',');
    return NULL;
}

/* Writes `text` as a JSON string to `out`, which has room for 6 times as much. */
static char *quote(const char *text, char *out)
{
    char *at = out;
    for (*at++ = '"'; *text != 0; text++) {
        bool is_control = (unsigned char)*text < 0x20;
        if (*text == '"' || *text == '\\')
            *at++ = '\\';
        at += snprintf(at, 7, is_control ? "\\u%04x" : "%c", *text);
    }
    strcpy(at, "\"");
    return out;
}
