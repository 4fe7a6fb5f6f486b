/* Stands in for the bcryptprimitives.dll that Wine 8 lacks and from which Rust's standard library takes random
   numbers. For tests under Wine only. */
#include <windows.h>

/* RtlGenRandom, which the headers declare under this name only. */
BOOLEAN WINAPI SystemFunction036(PVOID data, ULONG len);

enum { PIECE_MAX = 64 * 1024 };

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T len)
{
    while (len > 0) {
        ULONG piece = len < PIECE_MAX ? (ULONG)len : PIECE_MAX;
        if (!SystemFunction036(data, piece))
            return FALSE;
        data += piece;
        len -= piece;
    }
    return TRUE;
}
